"""Request id and trace context: the same two ids from a request's first step to its last line.

`X-Request-ID` is taken from the client only when it is 1 to 64 of `A-Z a-z 0-9 . _ -`: an unchecked
value is a log injection, and a control character in it turns the answer into a 500. The W3C
`traceparent` is continued when it is valid, and begun when it is not.

Wiring::

    app.on_response_prepare.append(send_request_id)
    app.middlewares.append(identify)

Needs: aiohttp>=3.14.4
Order: outside everything that logs; `request_id(request)` itself works anywhere, also further out.
Not: sampling decisions or spans; an OpenTelemetry SDK takes over from `traceparent` for those.
"""

import os
import re
from collections.abc import Awaitable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass

from aiohttp import web
from aiohttp.typedefs import Handler
from multidict import istr

__all__ = [
    "Ids",
    "current_ids",
    "identify",
    "ids_of",
    "outbound_headers",
    "request_id",
    "send_request_id",
]

HEADER, TRACEPARENT_HEADER = istr("X-Request-ID"), istr("traceparent")
ALLOWED_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
# W3C Trace Context, section 3.2.2: version 00 exactly, later versions as far as they are known.
TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
NO_TRACE, NO_SPAN = "0" * 32, "0" * 16


@dataclass(slots=True, eq=False)  # made for each request; frozen would cost three times as much
class Ids:
    """A request's own id, and the W3C trace it belongs to; `span_id` is this service's part."""

    request_id: str
    trace_id: str
    span_id: str
    flags: str

    @property
    def traceparent(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}"


IDS = web.RequestKey("ids", Ids)
CURRENT: ContextVar[Ids | None] = ContextVar("current_request", default=None)


def request_id(request: web.Request) -> str:
    """The id of this request: the client's when it is well-formed, else 128 random bits in hex."""
    return ids_of(request).request_id


def ids_of(request: web.Request) -> Ids:
    """The ids of this request; its trace is continued from `traceparent`, or begun here."""
    try:
        return request[IDS]
    except KeyError:
        ids = request[IDS] = _identified(request)
        return ids


def outbound_headers() -> Mapping[str, str]:
    """What a call made on behalf of the current request carries; empty outside of a request."""
    current = CURRENT.get()
    return {HEADER: current.request_id, TRACEPARENT_HEADER: current.traceparent} if current else {}


def current_ids() -> Mapping[str, str]:
    """The `request_id` and `trace_id` for a log line; empty outside of a request."""
    current = CURRENT.get()
    return {"request_id": current.request_id, "trace_id": current.trace_id} if current else {}


@web.middleware
def identify(request: web.Request, handler: Handler) -> Awaitable[web.StreamResponse]:
    """Let all that runs for this request know its ids, tasks that it starts included."""
    # aiohttp gives each request its own context (issue 3406). No coroutine, a stream would keep it.
    CURRENT.set(ids_of(request))
    return handler(request)


async def send_request_id(request: web.Request, response: web.StreamResponse) -> None:
    """`on_response_prepare` callback: it sees errors, redirects and handshakes too."""
    response.headers[HEADER] = ids_of(request).request_id


def _identified(request: web.Request) -> Ids:
    fresh = os.urandom(40).hex()  # once for all three ids, as each call enters the kernel
    offered, header = request.headers.get(HEADER), request.headers.get(TRACEPARENT_HEADER)
    ids = Ids(fresh[:32], fresh[32:64], fresh[64:], "00")
    if offered and ALLOWED_ID.fullmatch(offered):
        ids.request_id = offered
    if header:
        _continue_trace(ids, header)
    return ids


def _continue_trace(ids: Ids, header: str) -> None:
    parts = TRACEPARENT.fullmatch(header)
    if parts is None or parts[1] == "ff" or parts[2] == NO_TRACE or parts[3] == NO_SPAN:
        return
    if parts[1] == "00" and parts[5]:
        return
    ids.trace_id, ids.flags = parts[2], parts[4]
