"""WebSockets that no client can turn against the others: bounded, checked, dropped when slow.

Sending never waits: while a client keeps up, a message goes straight to its transport; behind that
stands one bounded queue with one writer; when it is full, the client is dropped with 1013.

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

from aiohttp import WSCloseCode, WSMessage, WSMsgType, hdrs, web

__all__ = ["Client", "Hub"]

LOW, HIGH = 16 * 1024, 64 * 1024 - 16  # asyncio's marks, less the header of a frame

# While it is open, what it is given is called with each frame of JSON, encoded once for all.
Source = Callable[[Callable[[bytes], None]], AbstractAsyncContextManager[object]]
OnText = Callable[["Client", str], Awaitable[None]]


@dataclass(kw_only=True, eq=False)
class Hub:
    """All open sockets, how many were `dropped` for being slow, and what holds for each."""

    error_reply: Callable[[web.HTTPException], bytes] = lambda error: (error.text or "").encode()
    origins: Collection[str] = ()  # none: pages of the same host may connect
    heartbeat: float = 30.0  # seconds
    max_message: int = 64 * 1024  # bytes
    queue: int = 256  # messages that a client may be behind
    close_timeout: float = 5.0  # seconds
    now: Callable[[], float] = time.time
    dropped: int = field(default=0, init=False)
    draining: bool = field(default=False, init=False)
    clients: "set[Client]" = field(default_factory=set["Client"], init=False)

    @property
    def open(self) -> int:
        return len(self.clients)

    async def serve(
        self, request: web.Request, source: Source, on_text: OnText, expires_at: float | None = None
    ) -> web.WebSocketResponse:
        """Serve one socket to its end, at the latest `expires_at` (Unix time, then 1008).

        What `on_text` raises is answered when it is an HTTPException, and else closes with 1011.
        Before the handshake this raises 400, 403, and whatever `source` raises.
        """
        self._admit(request)
        if request.transport is None:
            return web.WebSocketResponse()  # the client has left, as aiohttp is about to see
        client = Client(self, request, request.transport)
        self.clients.add(client)
        try:
            async with source(client.send):
                if expires_at is not None:
                    client.later(expires_at - self.now(), lambda: client.close(1008))
                if self.draining:
                    client.close(WSCloseCode.GOING_AWAY)
                with suppress(ConnectionError):
                    await client.ws.prepare(request)
                    client.ws.headers.clear()  # sent, and 1.5 KiB
                    await client.run(on_text)
        finally:
            client.leave()
            self.clients.remove(client)
        return client.ws

    async def drain(self, grace: float) -> None:
        """Close all at once with 1001; after `grace` seconds abort who did not read or answer."""
        self.draining = True
        for client in tuple(self.clients):
            client.close(WSCloseCode.GOING_AWAY, grace)
        while self.clients:  # noqa: ASYNC110  # once in a process's life
            await asyncio.sleep(0.01)

    def _admit(self, request: web.Request) -> None:
        # CORS does not apply: this alone keeps foreign pages from using a browser's credentials.
        origin = request.headers.get(hdrs.ORIGIN)
        allowed = self.origins or (f"http://{request.host}", f"https://{request.host}")
        if origin is not None and origin.lower() not in map(str.lower, allowed):
            raise web.HTTPForbidden(text="This origin may not open a WebSocket.")
        # aiohttp would log the subprotocols that are offered, and tokens are offered there.
        offered = hdrs.SEC_WEBSOCKET_PROTOCOL in request.headers
        if offered or not web.WebSocketResponse().can_prepare(request):
            raise web.HTTPBadRequest(text="A WebSocket handshake without subprotocol is expected.")


class Client:
    """One socket. `send` and `close` neither wait nor raise; after `close` nothing is sent."""

    def __init__(self, hub: Hub, request: web.Request, transport: asyncio.Transport) -> None:
        self.hub, self.request, self.transport = hub, request, transport
        self.ws = web.WebSocketResponse(
            heartbeat=hub.heartbeat,
            timeout=hub.close_timeout,
            max_msg_size=hub.max_message,
            compress=False,  # seven times the memory, three times the CPU
            writer_limit=0,  # the writer waits as soon as the transport is full
        )
        self._code: int | None = None
        self._queue: list[bytes] = []  # an empty deque would be 760 bytes
        self._writer: asyncio.Task[None] | None = None
        self._wait: asyncio.Timeout | None = None
        self._timer: asyncio.TimerHandle | None = None

    def send(self, text: bytes) -> None:
        """Send a text frame of UTF-8, now or in its turn; a client that is too slow is dropped."""
        # The message counts too: a check of the buffer alone lets one large message stall the rest.
        # Above the low mark the transport may be paused still, and a write would have to wait.
        size = self.transport.get_write_buffer_size()
        fits = size <= LOW and size + len(text) <= HIGH
        free = self.ws.prepared and self._writer is None
        if self._code is not None:
            return
        if free and fits:
            sending = self.ws.send_frame(text, WSMsgType.TEXT)
            with suppress(StopIteration, ConnectionError):
                sending.send(None)  # a frame is written before its sender would wait for the drain
            sending.close()
        elif len(self._queue) < self.hub.queue:
            self._queue.append(text)
            if free:
                self._writer = asyncio.create_task(self._write())
        else:
            self.hub.dropped += 1
            self.close(WSCloseCode.TRY_AGAIN_LATER)

    def close(self, code: int, within: float | None = None) -> None:
        """Close with `code`; a peer that has not read and answered `within` seconds is aborted."""
        if self._code is None:
            self._code = code
            self._queue.clear()
            if self._wait is not None:
                self._wait.reschedule(0)
            self.later(self.hub.close_timeout if within is None else within, self.transport.abort)

    def later(self, seconds: float, callback: Callable[[], None]) -> None:
        # The only timer: the expiry until the socket closes, the abort from then on.
        if self._timer is not None:
            self._timer.cancel()
        seconds = min(seconds, 30 * 86_400)  # a token may claim any number, a timer takes not any
        self._timer = asyncio.get_running_loop().call_later(seconds, callback)

    async def run(self, on_text: OnText) -> None:
        """Receive until a side closes. A message whose handling has begun is handled to its end."""
        self._writer = asyncio.create_task(self._write()) if self._queue else None
        with suppress(TimeoutError):  # close() ended the wait for a message
            while self._code is None:
                async with asyncio.timeout(None) as self._wait:
                    message = await self.ws.receive()
                self._wait = None
                if self._code is not None or not await self._handle(message, on_text):
                    break
        if self._code is not None:
            # In a task of its own: aiohttp can hit a close with the heartbeat's cancellation.
            await asyncio.wait({asyncio.create_task(self.ws.close(code=self._code))})

    def leave(self) -> None:
        """Free everything; what the peer has yet to read keeps its socket for a moment."""
        self._wait = None
        self.close(WSCloseCode.GOING_AWAY)
        if self._timer is not None and not self.transport.get_write_buffer_size():
            self._timer.cancel()

    async def _handle(self, message: WSMessage, on_text: OnText) -> bool:
        if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
            return False  # the peer closed, or the connection failed
        try:
            if message.type is WSMsgType.BINARY:
                raise web.HTTPUnsupportedMediaType(text="Only text is understood.")  # noqa: TRY301
            await on_text(self, message.data)
        except web.HTTPException as refusal:
            self.send(self.hub.error_reply(refusal))
        except Exception:
            self.request.app.logger.exception("a message could not be handled")
            self.close(WSCloseCode.INTERNAL_ERROR)
        return True

    async def _write(self) -> None:
        with suppress(ConnectionError):
            while self._queue:
                await self.ws.send_frame(self._queue.pop(0), WSMsgType.TEXT)
        self._writer = None
