"""Early refusal: a full service answers 503 where the bytes arrive, before aiohttp parses them.

At ten times the load a service spends half of itself on the parser, request object, two tasks and
three passes of the event loop that come before a middleware can say no. Here each connection looks
at the bytes first and answers by itself what is one whole, plain request, while aiohttp is idle.

Wiring::

    gate = Gate(crowded=crowded, admits=admits, spared=spared, answer=answer)
    await runner.setup()
    refuse_early(runner.server, gate)

Needs: aiohttp>=3.14.4
Order: after the runner's setup, before the first site starts; the middleware that limits stays.
Not: an answer for every request. aiohttp gets what is pipelined or in pieces, HEAD, OPTIONS,
    upgrades, chunked bodies, `Expect`, browsers' (`Origin`), `Connection: close`, a path with `%`.
    It does not document `_waiter`, the sign of an idle connection; without it, it gets everything.
"""

import asyncio
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

from aiohttp import hdrs, web

__all__ = ["Gate", "paths_of", "refuse_early"]

# aiohttp starts the task of a request a pass of the loop after its bytes, and it runs a pass later
# (from Python 3.12 on in the same): until then a request that was let through is not in any count.
PASSES = 1 if sys.version_info >= (3, 12) else 2
LONGEST_HEAD = 8190  # bytes, as aiohttp's
PLAIN = re.compile(rb"(?:GET|POST|PUT|PATCH|DELETE) (/(?!/)[\w./~-]*)(?:\?[!-~]*)? HTTP/1\.1\r\n")
ODD = re.compile(
    rb"\n(?:[ \t\n]|transfer-encoding|expect|upgrade|origin|connection:(?! ?keep-alive\r))"
)
LENGTH = re.compile(rb"\ncontent-length: ?([0-9]{1,7})\r")
OFFERED_ID = re.compile(rb"\nx-request-id: ?([\w.-]{1,64})\r")


@dataclass(slots=True, kw_only=True)
class Gate:
    """What all connections of a server share.

    `crowded` is asked of all that arrives, so it must be cheap: whether limits are near at all.
    `admits` is told how many were let through and are not in any count yet; it counts a refusal.
    `spared` paths are never refused here. `answer` gets a path and an id for `X-Request-ID`, the
    client's when it is 1 to 64 of `A-Z a-z 0-9 . _ -`, and makes the bytes of the response.
    """

    crowded: Callable[[], bool]
    admits: Callable[[int], bool]
    spared: Callable[[str], bool]
    answer: Callable[[str, str], bytes]
    promised: int = field(default=0, init=False)
    _fresh: int = field(default=0, init=False)

    def promise(self) -> None:
        """Count a request until the middleware counts it; one that never gets there is forgotten.

        Or all that arrives in one pass of the loop would be let through.
        """
        if not self._fresh:
            asyncio.get_running_loop().call_soon(self._end_pass)
        self._fresh += 1
        self.promised += 1

    def _end_pass(self) -> None:
        count, self._fresh = self._fresh, 0
        self._forget(count, PASSES - 1)

    def _forget(self, count: int, passes: int) -> None:
        if passes:
            asyncio.get_running_loop().call_soon(self._forget, count, passes - 1)
        else:
            self.promised -= count


def refuse_early(server: web.Server, gate: Gate) -> None:
    """Let each connection to come pass through the gate."""
    made = server.connection_made

    def connection_made(handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        made(handler, transport)
        transport.set_protocol(_Connection(gate, handler, transport))

    server.connection_made = connection_made  # type: ignore[method-assign]  # the only place to


def paths_of(app: web.Application, spared: Callable[[object, str], bool]) -> Callable[[str], bool]:
    """Whether a path may lead to a handler that is spared for some method; for `Gate.spared`."""
    plain: set[str] = set()
    patterns: list[re.Pattern[str]] = []
    for route in app.router.routes():
        if route.resource and any(spared(route.handler, method) for method in hdrs.METH_ALL):
            info = route.resource.get_info()
            plain.update([info["path"]] if "path" in info else [])
            patterns.extend([info["pattern"]] if "pattern" in info else [])
    return lambda path: path in plain or any(each.fullmatch(path) for each in patterns)


class _Connection(asyncio.Protocol):
    """Stands before aiohttp's protocol, which is not told of what is answered here."""

    __slots__ = ("_between", "_gate", "_handler", "_transport")

    def __init__(
        self, gate: Gate, handler: web.RequestHandler, transport: asyncio.Transport
    ) -> None:
        self._gate, self._handler, self._transport = gate, handler, transport
        self._between = True  # what aiohttp has got ended where a request ends

    def data_received(self, data: bytes) -> None:
        plain = None
        if self._gate.crowded() and self._idle():
            plain = _plain(data)
            if plain is not None and self._between and not self._gate.spared(plain[0]):
                if not self._gate.admits(self._gate.promised):
                    path, known = plain
                    answer = self._gate.answer(path, known or os.urandom(16).hex())
                    self._transport.write(answer)
                    return
                self._gate.promise()
        # An idle aiohttp whose last bytes were an empty line has no half of a request: that line
        # ends any head, and while it waits for the rest of a body, or reads one, it is not idle.
        self._between = plain is not None or data.endswith(b"\r\n\r\n")
        self._handler.data_received(data)

    def _idle(self) -> bool:
        """Whether aiohttp waits for a request, and the peer has read the answers so far."""
        waiter: asyncio.Future[None] | None = getattr(self._handler, "_waiter", None)
        if waiter is None or waiter.done():
            return False
        return not self._transport.get_write_buffer_size()

    def connection_lost(self, exc: Exception | None) -> None:
        self._handler.connection_lost(exc)

    def pause_writing(self) -> None:
        self._handler.pause_writing()

    def resume_writing(self) -> None:
        self._handler.resume_writing()


def _plain(data: bytes) -> tuple[str, str] | None:
    """The path and the id offered, when this is exactly one request that needs nothing special."""
    end = data.find(b"\r\n\r\n") + 2
    first = PLAIN.match(data) if 2 <= end <= LONGEST_HEAD else None
    if first is None:
        return None
    head, rest = data[:end].lower(), len(data) - end - 2
    if ODD.search(head):
        return None
    if rest or b"content-length" in head:
        lengths = LENGTH.findall(head)
        if head.count(b"content-length") != 1 or not lengths or int(lengths[0]) != rest:
            return None
    offered = OFFERED_ID.search(head)
    return first[1].decode(), data[slice(*offered.span(1))].decode() if offered else ""
