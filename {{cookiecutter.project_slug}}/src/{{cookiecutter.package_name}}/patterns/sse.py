"""Server-Sent Events that resume, end cleanly, and cost nothing once the client has left.

In production aiohttp leaves a handler running when its client disconnects; here it is noticed.

Wiring::

    streams = Streams()

    async def news(request: web.Request) -> web.StreamResponse:
        return await streams.serve(request, subscribe_to_news)

    app.router.add_get("/news", news)

Needs: aiohttp>=3.14.4
Order: none. Await `streams.drain` before the runner's cleanup.
Not: a cap on open streams (`streams.open` counts them), or a history: that is the source's.
"""

import asyncio
import math
import random
import re
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, field

from aiohttp import hdrs, web

__all__ = ["Backlog", "Streams", "sse_chunk"]

LEFT = suppress(ConnectionError, StopIteration)  # stateless: one for all, not 300 bytes a stream
HEADERS = {
    hdrs.CONTENT_TYPE: "text/event-stream; charset=utf-8",
    hdrs.CACHE_CONTROL: "no-store, no-transform",
    "X-Accel-Buffering": "no",
}
NOTHING: Iterator[bytes] = iter(())
# The chunks that were missed, which are taken as the client reads them, the id to resume from until
# another comes, and whether some are lost.
Backlog = tuple[Iterable[bytes], str, bool]
# While it is open, the callable gets each `sse_chunk` that follows the id (None: from now on).
Source = Callable[[Callable[[bytes], None], str | None], AbstractAsyncContextManager[Backlog]]


def sse_chunk(data: bytes, *, id: str = "", event: str = "") -> bytes:  # noqa: A002  # its name
    """One event, to be encoded once for all. Raises ValueError when a field would begin another."""
    if re.search(r"[\r\n\0]", id + event):
        raise ValueError("an event's id and name hold no line ending and no NUL")
    fields = (f"id: {id}\n" if id else "") + (f"event: {event}\n" if event else "")
    return b"%bdata: %b\n\n" % (fields.encode(), re.sub(rb"\r\n|\r|\n", b"\ndata: ", data))


@dataclass(kw_only=True, eq=False)
class Streams:
    """All open streams, how many were `dropped` for being slow, and what holds for each."""

    retry: float = 3.0  # seconds until a client comes back
    restart: float = 10.0  # at most, when it is the server that goes: lest all come at once
    comment: float = 15.0  # seconds between comments, which keep proxies from closing the stream
    queue: int = 256  # events that a client may be behind
    close_timeout: float = 5.0  # seconds
    dropped: int = field(default=0, init=False)
    draining: bool = field(default=False, init=False)
    streams: "set[_Stream]" = field(default_factory=set["_Stream"], init=False)

    @property
    def open(self) -> int:
        return len(self.streams)

    async def serve(
        self, request: web.Request, source: Source, expires_at: float = math.inf
    ) -> web.StreamResponse:
        """Stream until the client leaves, a drain, or `expires_at` (Unix time).

        Resumes after `Last-Event-ID`; when the source no longer reaches back so far, an
        `event: reset` precedes all it has. What `source` raises is raised before the stream.
        """
        response = web.StreamResponse(headers=HEADERS)
        response.force_close()  # a stream leaves nothing to reuse
        if request.method == hdrs.METH_HEAD or request.transport is None:
            return response
        stream = _Stream(self, request.protocol, request.transport, expires_at)
        self.streams.add(stream)
        try:
            after = request.headers.get("Last-Event-ID")
            async with source(stream.send, after) as backlog:
                stream.backlog = self._opening(after, backlog)
                del backlog  # or what was sent stays for as long as the stream
                if self.draining:
                    stream.end(self._goodbye())
                with LEFT:  # the client may have left already, which is no error
                    await response.prepare(request)
                    response.headers.clear()  # sent, and 1.5 KiB
                    stream.response = response
                    stream.flush()
                    await stream.done
        finally:
            self.streams.remove(stream)
            stream.end()
            if not stream.transport.get_write_buffer_size():  # else it is aborted in time
                stream.timer.cancel()
        return response

    async def drain(self, grace: float) -> None:
        """End all at once, each with its own `retry:`; after `grace` seconds abort who lingers."""
        self.draining, self.close_timeout = True, grace
        for stream in tuple(self.streams):
            stream.end(self._goodbye())
        while self.streams:  # noqa: ASYNC110  # once in a process's life
            await asyncio.sleep(0.01)

    def _opening(self, after: str | None, backlog: Backlog) -> Iterator[bytes]:
        missed, at, reset = iter(backlog[0]), *backlog[1:]
        first = next(missed, b"")
        # Lets a client that has not received any event yet resume without a gap, too.
        here = f"id: {at}\n" if not first and (reset or after is None) else ""
        yield f"retry: {self.retry * 1000:.0f}\n: open\n{here}\n".encode()
        yield (sse_chunk(b"{}", event="reset") if reset else b"") + first
        yield from missed

    def _goodbye(self) -> bytes:
        return b"retry: %d\n\n" % random.uniform(1000, self.restart * 1000)  # noqa: S311


@dataclass(slots=True, eq=False)  # and one timer for all: there are thousands of these
class _Stream:  # stands before aiohttp's protocol, to see at once that the connection is lost
    streams: Streams
    protocol: web.RequestHandler
    transport: asyncio.Transport
    expires_at: float  # Unix time
    response: web.StreamResponse | None = None
    backlog: Iterator[bytes] = NOTHING
    queue: list[bytes] = field(default_factory=list[bytes])  # a deque or Event would be 760 bytes
    ended: bool = False
    done: asyncio.Future[None] = field(init=False)
    timer: asyncio.TimerHandle = field(init=False)

    def __post_init__(self) -> None:
        self.done = asyncio.get_running_loop().create_future()
        self.watch()
        self.transport.set_protocol(self)  # type: ignore[arg-type]  # see __getattr__
        self.protocol.keep_alive(False)  # or its timer stays, 400 bytes
        with suppress(OSError, AttributeError):  # TCP on Linux: a bound for peers that vanished
            option, limit = socket.TCP_USER_TIMEOUT, int(self.streams.comment * 2000)  # ms
            self.transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, option, limit)

    def __getattr__(self, name: str) -> object:
        return getattr(self.protocol, name)  # what it lacks itself, aiohttp's has

    def connection_lost(self, exc: Exception | None) -> None:
        self.finish()
        self.protocol.connection_lost(exc)

    def resume_writing(self) -> None:
        self.protocol.resume_writing()
        self.flush()

    def send(self, chunk: bytes) -> None:
        if not self.ended and not self.transport.is_closing():
            self.queue.append(chunk)
            self.flush()
            if len(self.queue) > self.streams.queue:
                self.streams.dropped += 1
                self.transport.abort()

    def flush(self) -> None:
        while self.response is not None and not self.protocol.writing_paused:
            chunk = next(self.backlog, b"") or (self.queue.pop(0) if self.queue else b"")
            if not chunk:
                self.backlog = NOTHING  # used up; a generator is 300 bytes
                break
            sending = self.response.write(chunk)
            with LEFT:
                sending.send(None)  # written at once; what it would wait for is the drain
            sending.close()
        if self.ended and not self.queue:
            self.finish()

    def finish(self) -> None:
        if not self.done.done():
            self.done.set_result(None)

    def watch(self) -> None:
        loop, left = asyncio.get_running_loop(), self.expires_at - time.time()
        self.timer = loop.call_later(min(left, self.streams.comment), self.watch)
        if left < 0.001:  # a timer may be early by a rounding
            self.end()
        elif self.response is not None and not self.queue:
            self.send(b": still here\n\n")

    def end(self, final: bytes = b"") -> None:
        if not self.ended:
            self.ended = True
            self.queue.append(final)
            self.flush()
            loop = asyncio.get_running_loop()
            self.timer.cancel()
            self.timer = loop.call_later(self.streams.close_timeout, self.transport.abort)
