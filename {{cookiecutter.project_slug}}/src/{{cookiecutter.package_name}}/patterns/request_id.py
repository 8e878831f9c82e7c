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
from collections.abc import Mapping
from contextvars import ContextVar
from typing import NamedTuple

from aiohttp import web
from aiohttp.typedefs import Handler
from multidict import istr

__all__ = [
    "Trace",
    "current_ids",
    "identify",
    "outbound_headers",
    "request_id",
    "send_request_id",
    "trace",
]

HEADER, TRACEPARENT_HEADER = istr("X-Request-ID"), istr("traceparent")
ALLOWED_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
# W3C Trace Context, section 3.2.2: version 00 exactly, later versions as far as they are known.
TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
NO_TRACE, NO_SPAN = "0" * 32, "0" * 16


class Trace(NamedTuple):
    """The W3C trace this request belongs to; `span_id` names this service's part of it."""

    trace_id: str
    span_id: str
    flags: str

    @property
    def traceparent(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}"


class _Ids(NamedTuple):
    request_id: str
    trace: Trace


IDS = web.RequestKey("ids", _Ids)
CURRENT: ContextVar[_Ids | None] = ContextVar("current_request", default=None)


def request_id(request: web.Request) -> str:
    """The id of this request: the client's when it is well-formed, else 128 random bits in hex."""
    return _ids(request).request_id


def trace(request: web.Request) -> Trace:
    """The trace of this request, continued from `traceparent` or begun here."""
    return _ids(request).trace


def outbound_headers() -> Mapping[str, str]:
    """What a call made on behalf of the current request carries; empty outside of a request."""
    current = CURRENT.get()
    return {HEADER: current[0], TRACEPARENT_HEADER: current[1].traceparent} if current else {}


def current_ids() -> Mapping[str, str]:
    """The `request_id` and `trace_id` for a log line; empty outside of a request."""
    current = CURRENT.get()
    return {"request_id": current[0], "trace_id": current[1].trace_id} if current else {}


@web.middleware
async def identify(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Let all that runs for this request know its ids, tasks that it starts included."""
    token = CURRENT.set(_ids(request))
    try:
        return await handler(request)
    finally:
        CURRENT.reset(token)


async def send_request_id(request: web.Request, response: web.StreamResponse) -> None:
    """`on_response_prepare` callback: it sees errors, redirects and handshakes too."""
    response.headers[HEADER] = request_id(request)


def _ids(request: web.Request) -> _Ids:
    known = request.get(IDS)
    if known is None:
        fresh = os.urandom(40).hex()  # once for all three ids, as each call enters the kernel
        offered, header = request.headers.get(HEADER), request.headers.get(TRACEPARENT_HEADER)
        known = request[IDS] = _Ids(
            offered if offered and ALLOWED_ID.fullmatch(offered) else fresh[:32],
            (header and _continued(header, fresh[64:])) or Trace(fresh[32:64], fresh[64:], "00"),
        )
    return known


def _continued(header: str, span_id: str) -> Trace | None:
    parts = TRACEPARENT.fullmatch(header)
    if parts is None or parts[1] == "ff" or parts[2] == NO_TRACE or parts[3] == NO_SPAN:
        return None
    if parts[1] == "00" and parts[5]:
        return None
    return Trace(parts[2], span_id, parts[4])
