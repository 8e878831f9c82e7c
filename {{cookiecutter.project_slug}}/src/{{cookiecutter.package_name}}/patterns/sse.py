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
import random
import re
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, field

from aiohttp import hdrs, web

__all__ = ["Backlog", "Streams", "sse_chunk"]

LOW, HIGH = 16 * 1024, 64 * 1024 - 16  # asyncio's marks, less the frame of a chunk
HEADERS = {
    hdrs.CONTENT_TYPE: "text/event-stream; charset=utf-8",
    hdrs.CACHE_CONTROL: "no-store, no-transform",
    "X-Accel-Buffering": "no",
}
# The chunks that were missed, the id to resume from until another comes, and whether some are lost.
Backlog = tuple[Sequence[bytes], str, bool]
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
    comment: float = 15.0  # seconds of silence
    queue: int = 256  # events that a client may be behind
    close_timeout: float = 5.0  # seconds
    now: Callable[[], float] = time.time
    dropped: int = field(default=0, init=False)
    draining: bool = field(default=False, init=False)
    streams: "set[_Stream]" = field(default_factory=set["_Stream"], init=False)

    @property
    def open(self) -> int:
        return len(self.streams)

    async def serve(
        self, request: web.Request, source: Source, expires_at: float | None = None
    ) -> web.StreamResponse:
        """Stream until the client leaves, a drain, or `expires_at` (Unix time).

        Resumes after `Last-Event-ID`; when the source no longer reaches back so far, an
        `event: reset` precedes all it has. What `source` raises is raised before the stream.
        """
        response = web.StreamResponse(headers=HEADERS)
        response.force_close()  # a stream leaves nothing to reuse
        if request.method == hdrs.METH_HEAD or request.transport is None:
            return response
        stream = _Stream(self, request, request.transport)
        self.streams.add(stream)
        try:
            after = request.headers.get("Last-Event-ID")
            async with source(stream.send, after) as backlog:
                if expires_at is not None:
                    stream.later(expires_at - self.now(), stream.end)
                if self.draining:
                    stream.end(self._goodbye())
                with suppress(ConnectionError):  # the client has left, which is no error
                    await response.prepare(request)
                    response.headers.clear()  # sent, and 1.5 KiB
                    await stream.run(response, self._opening(after, backlog))
        finally:
            stream.leave()
            self.streams.remove(stream)
        return response

    async def drain(self, grace: float) -> None:
        """End all at once, each with its own `retry:`; after `grace` seconds abort who lingers."""
        self.draining = True
        for stream in tuple(self.streams):
            stream.end(self._goodbye(), grace)
        while self.streams:  # noqa: ASYNC110  # once in a process's life
            await asyncio.sleep(0.01)

    def _opening(self, after: str | None, backlog: Backlog) -> list[bytes]:
        chunks, at, reset = backlog
        first = b"retry: %d\n: open\n" % (self.retry * 1000)
        if not chunks and (reset or after is None):
            # Lets a client that has not received any event yet resume without a gap, too.
            first += f"id: {at}\n".encode()
        return [first + b"\n", *([sse_chunk(b"{}", event="reset")] if reset else []), *chunks]

    def _goodbye(self) -> bytes:
        return b"retry: %d\n\n" % random.uniform(1000, self.restart * 1000)  # noqa: S311


class _Stream:
    # It stands before aiohttp's protocol, to see at once that the connection is lost.
    def __init__(self, streams: Streams, request: web.Request, transport: asyncio.Transport):
        self.streams, self.transport, self.protocol = streams, transport, request.protocol
        self.response: web.StreamResponse | None = None
        self.limit, self.lost = streams.queue, False
        self.queue: list[bytes] = []  # an empty deque would be 760 bytes, an Event too
        self.idle: asyncio.Future[None] | None = None
        self.final: bytes | None = None
        self.timer: asyncio.TimerHandle | None = None
        transport.set_protocol(self)  # type: ignore[arg-type]  # see __getattr__
        with suppress(OSError, AttributeError):  # TCP on Linux: a bound for peers that vanished
            option, milliseconds = socket.TCP_USER_TIMEOUT, int(streams.comment * 2000)
            transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, option, milliseconds)

    def __getattr__(self, name: str) -> object:
        return getattr(self.protocol, name)  # what it lacks itself, aiohttp's has

    def send(self, chunk: bytes) -> None:
        if self.lost or self.final is not None:
            return
        # The event counts too: a check of the buffer alone lets a large one stall the others.
        # Above the low mark the transport may be paused still, and a write would have to wait.
        size = self.transport.get_write_buffer_size()
        fits = size <= LOW and size + len(chunk) <= HIGH
        if self.response is not None and fits and not self.queue:
            sending = self.response.write(chunk)
            with suppress(StopIteration, ConnectionError):
                sending.send(None)  # a chunk is written before its sender would wait for the drain
            sending.close()
        elif len(self.queue) < self.limit:
            self.queue.append(chunk)
            self.wake()
        else:
            self.streams.dropped += 1
            self.end()
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self.wake()
        self.protocol.connection_lost(exc)

    def end(self, final: bytes = b"", grace: float | None = None) -> None:
        if self.final is None:
            self.final = final
            self.wake()
            self.later(self.streams.close_timeout if grace is None else grace, self.transport.abort)

    def wake(self) -> None:
        if self.idle is not None and not self.idle.done():
            self.idle.set_result(None)

    def later(self, seconds: float, callback: Callable[[], None]) -> None:
        if self.timer is not None:
            self.timer.cancel()
        seconds = min(seconds, 30 * 86_400)  # a token may claim any number, a timer takes not any
        self.timer = asyncio.get_running_loop().call_later(seconds, callback)

    async def run(self, response: web.StreamResponse, opening: list[bytes]) -> None:
        self.limit += len(opening)
        self.queue[:0] = opening
        self.response = response
        while not self.lost:
            if self.queue:
                await response.write(self.queue.pop(0))
            elif self.final is not None:
                await response.write(self.final)
                return
            else:
                self.idle = asyncio.get_running_loop().create_future()
                try:
                    async with asyncio.timeout(self.streams.comment):
                        await self.idle
                except TimeoutError:
                    self.queue.append(b": still here\n\n")

    def leave(self) -> None:
        self.end()
        if self.timer is not None and not self.transport.get_write_buffer_size():
            self.timer.cancel()
