"""WebSockets that no client can turn against the others: bounded, checked, dropped when slow.

Wiring::

    hub = Hub()
    async def chat(request: web.Request) -> web.WebSocketResponse:
        return await hub.serve(request, subscribe_to_chat, on_text)
    app.router.add_get("/chat", chat)

Needs: aiohttp>=3.14.4
Order: none. Await `hub.drain` before the runner's cleanup, which drops every inbound byte.
Not: a cap on open sockets (`hub.open` counts them), subprotocols, binary messages.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, field
from functools import lru_cache

from aiohttp import WSCloseCode, WSMessage, WSMsgType, hdrs, web

__all__ = ["Client", "Hub"]
# While it is open, what it is given is called with each frame of JSON, encoded once for all.
Source = Callable[[Callable[[bytes], None]], AbstractAsyncContextManager[object]]
OnText = Callable[["Client", str], Awaitable[None]]


@dataclass(kw_only=True, eq=False)
class Hub:
    """All open sockets, how many were `dropped` for being slow, and what holds for each."""

    error_reply: Callable[[web.HTTPException], bytes] = lambda error: (error.text or "").encode()
    origins: Collection[str] = ()  # none: pages of the same host may connect
    heartbeat: float = 30.0  # seconds; aiohttp rounds its own: the pings of many come all at once
    max_message: int = 64 * 1024  # bytes
    queue: int = 256  # messages that a client may be behind
    close_timeout: float = 5.0  # seconds
    dropped: int = field(default=0, init=False)
    draining: bool = field(default=False, init=False)
    clients: "set[Client]" = field(default_factory=set["Client"], init=False)

    @property
    def open(self) -> int:
        return len(self.clients)

    async def serve(
        self, request: web.Request, source: Source, on_text: OnText, expires_at: float = 1e300
    ) -> web.WebSocketResponse:
        """Serve one socket to its end, with 1008 at `expires_at` (Unix time; by default never).

        What `on_text` raises is answered when it is an HTTPException, and else closes with 1011.
        Before the handshake this raises 400, 403, and whatever `source` raises.
        """
        ws = web.WebSocketResponse(  # compressed: seven times the memory, three times the CPU
            compress=False, max_msg_size=self.max_message, timeout=self.close_timeout
        )
        self._admit(request, ws)
        if request.transport is None:
            return ws  # the client has left, as aiohttp is about to see
        client = Client(self, request, request.protocol, request.transport, ws, expires_at)
        request.transport.set_protocol(client)  # type: ignore[arg-type]  # see __getattr__
        client.watch()
        self.clients.add(client)
        try:
            async with source(client.send):
                if self.draining:
                    client.close(WSCloseCode.GOING_AWAY)
                with suppress(ConnectionError):
                    await ws.prepare(request)
                    ws.headers.clear()  # sent, and 1.5 KiB
                    await client.run(on_text)
        finally:
            self.clients.remove(client)
            client.close(WSCloseCode.GOING_AWAY)
            if not client.transport.get_write_buffer_size():  # else it is aborted in time
                client.timer.cancel()
        return ws

    async def drain(self, grace: float) -> None:
        """Close all at once with 1001; after `grace` seconds abort who did not read or answer."""
        self.draining, self.close_timeout = True, grace
        for client in tuple(self.clients):
            client.close(WSCloseCode.GOING_AWAY)
        while self.clients:  # noqa: ASYNC110  # once in a process's life
            await asyncio.sleep(0.01)

    def _admit(self, request: web.Request, ws: web.WebSocketResponse) -> None:
        # CORS does not apply: this alone keeps foreign pages from using a browser's credentials.
        origin = request.headers.get(hdrs.ORIGIN)
        allowed = self.origins or (f"http://{request.host}", f"https://{request.host}")
        if origin is not None and origin.lower() not in map(str.lower, allowed):
            raise web.HTTPForbidden(text="This origin may not open a WebSocket.")
        # aiohttp would log the subprotocols that are offered, and tokens are offered there.
        if hdrs.SEC_WEBSOCKET_PROTOCOL in request.headers or not ws.can_prepare(request):
            raise web.HTTPBadRequest(text="A WebSocket handshake without subprotocol is expected.")


@dataclass(slots=True, eq=False)  # and one timer for all: there are thousands of these
class Client:
    """One socket. `send` and `close` neither wait nor raise; after `close` nothing is sent."""

    hub: Hub
    request: web.Request
    protocol: web.RequestHandler
    transport: asyncio.Transport
    ws: web.WebSocketResponse
    expires_at: float  # Unix time
    _code: int | None = None
    _ready: bool = False  # the handshake has been answered
    _queue: list[bytes] = field(default_factory=list[bytes])  # a deque is 760 bytes, empty
    _receiver: asyncio.Task[object] | None = None
    _heard: bool = True
    timer: asyncio.TimerHandle = field(init=False)

    def __getattr__(self, name: str) -> object:
        return getattr(self.protocol, name)  # what a protocol has that this one lacks

    def data_received(self, data: bytes) -> None:
        self._heard = True  # any byte is a sign of life, not only a pong
        self.protocol.data_received(data)

    def resume_writing(self) -> None:
        self.protocol.resume_writing()
        self._flush()

    def send(self, text: bytes) -> None:
        """Send a text frame of UTF-8, now or in its turn; a client that is too slow is dropped."""
        if self._code is not None or self.transport.is_closing():
            return
        frame = _frame(text)
        if self._queue or not self._ready or self.protocol.writing_paused or self.ws.closed:
            self._queue.append(frame)
        else:
            self.transport.write(frame)  # by aiohttp's two coroutines it takes twice the time
        if len(self._queue) > self.hub.queue:
            self.hub.dropped += 1
            self.close(WSCloseCode.TRY_AGAIN_LATER)

    def close(self, code: int) -> None:
        """Close with `code`; a peer that does not read and answer in time is aborted."""
        if self._code is None:
            self._code, self._queue = code, []
            if self._receiver is not None and self._receiver is not asyncio.current_task():
                self._receiver.cancel()
            loop = asyncio.get_running_loop()
            self.timer.cancel()
            self.timer = loop.call_later(self.hub.close_timeout, self.transport.abort)

    def watch(self) -> None:
        loop, left = asyncio.get_running_loop(), self.expires_at - time.time()
        self.timer = loop.call_later(min(left, self.hub.heartbeat), self.watch)
        if left < 0.001:  # a timer may be early by a rounding
            self.close(1008)
        elif not self._heard:
            self.transport.abort()
        elif self._ready and not self.ws.closed:
            self._heard = False
            self.transport.write(b"\x89\0")  # a ping

    async def run(self, on_text: OnText) -> None:
        """Receive until a side closes. A message whose handling has begun is handled to its end."""
        self._ready = True
        self._flush()
        try:
            while self._code is None:
                self._receiver = asyncio.current_task()
                message = await self.ws.receive()
                self._receiver = None
                if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
                    break  # the peer closed, or the connection failed
                await self._handle(message, on_text)
        except asyncio.CancelledError:
            if self._receiver is None or self._code is None or self._receiver.uncancel():
                raise  # it was not close() that ended the wait for a message
        if self._code is not None:
            await self.ws.close(code=self._code)

    def _flush(self) -> None:
        while self._queue and self._ready and not (self.protocol.writing_paused or self.ws.closed):
            self.transport.write(self._queue.pop(0))

    async def _handle(self, message: WSMessage, on_text: OnText) -> None:
        try:
            if message.type is WSMsgType.BINARY:
                raise web.HTTPUnsupportedMediaType(text="Only text is understood.")  # noqa: TRY301
            await on_text(self, message.data)
        except web.HTTPException as refusal:
            self.send(self.hub.error_reply(refusal))
        except Exception:
            self.request.app.logger.exception("a message could not be handled")
            self.close(WSCloseCode.INTERNAL_ERROR)


@lru_cache(maxsize=8)  # made once and shared by all who get it, also while it waits
def _frame(text: bytes) -> bytes:
    n = len(text)  # RFC 6455, section 5.2
    size = bytes([n]) if n < 126 else b"~" + n.to_bytes(2) if n < 65536 else b"\x7f" + n.to_bytes(8)
    return b"\x81%b%b" % (size, text)
