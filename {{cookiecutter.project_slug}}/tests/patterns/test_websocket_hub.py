import asyncio
import gc
import math
import socket
import textwrap
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import aiohttp
import pytest
from aiohttp import WSMsgType, web

from {{cookiecutter.package_name}}.patterns import websocket_hub as pattern
from {{cookiecutter.package_name}}.patterns.websocket_hub import Client, Hub

HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"
)


class Channel:
    """A hub behind a real server, with the settings of production, and all that it subscribed."""

    def __init__(self, **options: object) -> None:
        self.hub = Hub(**options)  # type: ignore[arg-type]  # a test names the ones it needs
        self.sends: list[Callable[[bytes], None]] = []
        self.expires_at = math.inf
        self.url, self.seen = "", 0
        self.runner: web.AppRunner | None = None
        self.on_text: Callable[[Client, str], Awaitable[None]] = self.echo

    async def echo(self, client: Client, text: str) -> None:
        client.send(text.encode())

    @asynccontextmanager
    async def source(self, send: Callable[[bytes], None]) -> AsyncIterator[None]:
        self.sends.append(send)
        self.seen += 1
        try:
            yield
        finally:
            self.sends.remove(send)

    async def handler(self, request: web.Request) -> web.WebSocketResponse:
        return await self.hub.serve(request, self.source, self.on_text, self.expires_at)

    async def disconnected(self) -> None:
        assert self.runner is not None
        assert self.runner.server is not None
        server = self.runner.server
        await until(lambda: not server.connections)

    def publish(self, text: bytes) -> None:
        for send in tuple(self.sends):
            send(text)

    async def opened(self, count: int) -> None:
        async with asyncio.timeout(5):
            while self.hub.open != count:  # noqa: ASYNC110  # the hub has no event for it
                await asyncio.sleep(0.001)

    async def raw(self, extra: bytes = b"", buffer: int = 4096) -> socket.socket:
        """A client of few bytes that reads what it is told to read, if at all."""
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        connection.setblocking(False)
        loop = asyncio.get_running_loop()
        host, _, port = self.url.removeprefix("http://").removesuffix("/ws").partition(":")
        seen = self.seen
        await loop.sock_connect(connection, (host, int(port)))
        await loop.sock_sendall(connection, HANDSHAKE + extra + b"\r\n")
        await until(lambda: self.seen > seen)
        return connection


@asynccontextmanager
async def serving(channel: Channel) -> AsyncIterator[aiohttp.ClientSession]:
    app = web.Application()
    app.router.add_get("/ws", channel.handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    channel.runner = runner
    channel.url = f"{site.name}/ws"
    async with aiohttp.ClientSession() as session:
        yield session
    await runner.cleanup()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  # the other end of a socket has no event
            await asyncio.sleep(0.001)


async def closed_with(ws: aiohttp.ClientWebSocketResponse) -> int | None:
    async with asyncio.timeout(5):
        while (await ws.receive()).type not in (WSMsgType.CLOSE, WSMsgType.CLOSED):
            pass
    return ws.close_code


async def test_what_is_published_reaches_every_client_in_order() -> None:
    channel = Channel()
    async with serving(channel) as session:
        clients = [await session.ws_connect(channel.url) for _ in range(4)]
        await channel.opened(4)
        for n in range(20):
            channel.publish(b"%d" % n)
        for ws in clients:
            assert [await ws.receive_str() for _ in range(20)] == [str(n) for n in range(20)]


async def test_a_message_is_answered_through_the_handler() -> None:
    channel = Channel()
    async with serving(channel) as session, session.ws_connect(channel.url) as ws:
        await ws.send_str("hello")
        assert await ws.receive_str() == "hello"


@pytest.mark.parametrize("origin", ["null", "http://evil.example", "http://[", "//h", ""])
async def test_a_foreign_origin_is_refused_before_the_handshake(origin: str) -> None:
    channel = Channel()
    async with serving(channel) as session:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await session.ws_connect(channel.url, headers={"Origin": origin, "Host": "h"})
    assert refused.value.status == 403
    assert channel.sends == []


@pytest.mark.parametrize(
    ("origins", "origin"),
    [((), "http://h"), ((), "HTTPS://H"), (("https://App.example",), "https://aPP.example")],
)
async def test_the_same_host_or_an_allowed_origin_may_connect(
    origins: tuple[str, ...], origin: str
) -> None:
    channel = Channel(origins=origins)
    async with serving(channel) as session:
        ws = await session.ws_connect(channel.url, headers={"Origin": origin, "Host": "h"})
        await ws.close()


async def test_the_same_host_is_refused_when_origins_are_listed_without_it() -> None:
    channel = Channel(origins=["https://app.example"])
    async with serving(channel) as session:
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await session.ws_connect(channel.url, headers={"Origin": "http://h", "Host": "h"})


async def test_a_plain_request_is_a_400_that_repeats_nothing() -> None:
    channel = Channel()
    async with serving(channel) as session:
        response = await session.get(channel.url, headers={"Upgrade": "s3cret"})
        assert response.status == 400
        assert "s3cret" not in await response.text()


async def test_subprotocols_are_refused_and_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    channel = Channel()
    async with serving(channel) as session:
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await session.ws_connect(channel.url, protocols=["bearer.s3cret"])
    assert "s3cret" not in caplog.text


async def test_an_http_exception_of_the_handler_is_answered_and_the_connection_lives() -> None:
    async def picky(client: Client, text: str) -> None:
        if text == "bad":
            raise web.HTTPUnprocessableEntity(text="No.")
        client.send(b"good")

    channel = Channel()
    channel.on_text = picky
    async with serving(channel) as session, session.ws_connect(channel.url) as ws:
        await ws.send_str("bad")
        assert await ws.receive_str() == "No."
        await ws.send_str("other")
        assert await ws.receive_str() == "good"


async def test_a_binary_message_is_answered_and_the_connection_lives() -> None:
    channel = Channel(error_reply=lambda error: b"%d" % error.status)
    async with serving(channel) as session, session.ws_connect(channel.url) as ws:
        await ws.send_bytes(b"\xff")
        assert await ws.receive_str() == "415"
        await ws.send_str("still here")
        assert await ws.receive_str() == "still here"


async def test_an_unexpected_error_closes_with_1011_and_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def broken(client: Client, text: str) -> None:
        raise TimeoutError

    channel = Channel()
    channel.on_text = broken
    async with serving(channel) as session, session.ws_connect(channel.url) as ws:
        await ws.send_str("x")
        assert await closed_with(ws) == 1011
    assert len(caplog.records) == 1


async def test_a_message_above_the_limit_closes_with_1009() -> None:
    channel = Channel(max_message=1000)
    async with serving(channel) as session, session.ws_connect(channel.url) as ws:
        await ws.send_str("x" * 1001)
        assert await closed_with(ws) == 1009
        await channel.opened(0)


async def test_bytes_that_are_no_utf_8_close_the_connection_without_a_log_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    channel = Channel()
    async with serving(channel):
        peer = await channel.raw()
        await asyncio.get_running_loop().sock_sendall(peer, b"\x81\x81\0\0\0\0\xff")
        await channel.opened(0)
        peer.close()
    assert caplog.records == []


@pytest.mark.parametrize("left", [0.05, -5.0])
async def test_a_socket_closes_with_1008_when_its_token_expires(left: float) -> None:
    channel = Channel()
    channel.expires_at = time.time() + left
    async with serving(channel) as session, session.ws_connect(channel.url) as ws:
        assert await closed_with(ws) == 1008


async def test_an_expiry_beyond_any_timer_is_accepted() -> None:
    channel = Channel()
    channel.expires_at = 1e300
    async with serving(channel) as session, session.ws_connect(channel.url) as ws:
        await ws.send_str("hello")
        assert await ws.receive_str() == "hello"


async def test_what_is_published_during_the_handshake_comes_first() -> None:
    channel = Channel()
    plain = channel.source

    @asynccontextmanager
    async def eager(send: Callable[[bytes], None]) -> AsyncIterator[None]:
        async with plain(send):
            send(b"1")
            send(b"2")
            yield

    channel.source = eager  # type: ignore[method-assign]  # a stand-in for this test
    async with serving(channel) as session, session.ws_connect(channel.url) as ws:
        channel.publish(b"3")
        assert [await ws.receive_str() for _ in range(3)] == ["1", "2", "3"]


async def test_nothing_is_sent_after_a_close() -> None:
    async def leave(client: Client, text: str) -> None:
        client.close(4000)
        client.send(b"too late")

    channel = Channel()
    channel.on_text = leave
    async with serving(channel) as session, session.ws_connect(channel.url) as ws:
        await ws.send_str("bye")
        assert (await ws.receive()).type is WSMsgType.CLOSE
        assert ws.close_code == 4000


async def test_a_peer_that_closes_with_much_unread_keeps_its_socket_for_a_moment_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    channel = Channel(queue=10_000, close_timeout=0.1, heartbeat=0.05)
    async with serving(channel):
        peer = await channel.raw()
        for _ in range(200):
            channel.publish(b"x" * 60_000)
        peer.shutdown(socket.SHUT_WR)
        await channel.disconnected()
        peer.close()
    gc.collect()
    assert caplog.records == []


async def test_no_message_follows_a_close() -> None:
    channel = Channel(queue=10_000, close_timeout=0.1)
    async with serving(channel):
        peer = await channel.raw()
        (client,) = channel.hub.clients
        await until(lambda: client._ready)
        while not client._queue:
            channel.publish(b"x" * 60_000)
        loop, data = asyncio.get_running_loop(), b""
        await loop.sock_sendall(peer, b"\x81\xff\0\0\1\0\0\0\0\0\0\0\0\0")  # a terabyte: 1009
        await until(lambda: client.ws.closed)
        channel.publish(b"late")
        while more := await loop.sock_recv(peer, 65_536):
            data += more
        assert b"x\x88" in data
        assert b"late" not in data
        peer.close()


async def test_a_client_that_leaves_while_the_source_opens_is_no_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    channel, handlers = Channel(), list[web.Request]()
    plain, serve = channel.source, channel.handler

    async def noted(request: web.Request) -> web.WebSocketResponse:
        handlers.append(request)
        return await serve(request)

    @asynccontextmanager
    async def late(send: Callable[[bytes], None]) -> AsyncIterator[None]:
        async with plain(send):
            await until(lambda: handlers[0].transport is None)
            yield

    channel.source, channel.handler = late, noted  # type: ignore[method-assign]  # stand-ins
    async with serving(channel):
        peer = await channel.raw()
        peer.close()
        await channel.opened(0)
        await channel.disconnected()
    assert caplog.records == []


async def test_an_error_of_the_source_is_still_an_http_answer() -> None:
    @asynccontextmanager
    async def down(send: Callable[[bytes], None]) -> AsyncIterator[None]:
        raise web.HTTPServiceUnavailable
        yield

    channel = Channel()
    channel.source = down  # type: ignore[method-assign]  # a stand-in for this test
    async with serving(channel) as session:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await session.ws_connect(channel.url)
        assert refused.value.status == 503
        assert channel.hub.open == 0


async def test_a_reader_that_is_slow_for_a_while_still_gets_all_in_order() -> None:
    channel = Channel(queue=10_000)
    async with serving(channel) as session, session.ws_connect(channel.url, max_msg_size=0) as ws:
        await channel.opened(1)
        sent = [str(n) * 20_000 for n in range(300)]
        for text in sent:
            channel.publish(text.encode())
        for n in range(300):  # small ones, which would fit between the large ones
            assert await ws.receive_str() == sent[n]
            sent.append(f"small {n}")
            channel.publish(sent[-1].encode())
        assert [await ws.receive_str() for _ in range(300)] == sent[300:]
    assert channel.hub.dropped == 0


async def test_what_was_queued_arrives_without_anything_new_to_send() -> None:
    channel = Channel(queue=10_000)
    async with serving(channel) as session, session.ws_connect(channel.url, max_msg_size=0) as ws:
        await channel.opened(1)
        for n in range(300):
            channel.publish(b"%d" % n * 20_000)
        for n in range(300):
            assert await ws.receive_str(timeout=5) == str(n) * 20_000


async def test_what_would_have_to_wait_for_a_paused_transport_is_queued() -> None:
    channel = Channel()
    async with serving(channel):
        peer = await channel.raw()
        (client,) = channel.hub.clients
        await until(lambda: client._ready)
        connection = client.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        client.transport.write(b"\x89\x00" * 50_000)  # pings
        while client.transport.get_write_buffer_size() > 40_000:
            await asyncio.get_running_loop().sock_recv(peer, 4096)
        assert client.transport.get_write_buffer_size() > 16_384
        channel.publish(b"1")
        assert client._queue == [b"\x81\x011"]
        peer.close()


async def test_a_client_that_keeps_up_needs_no_queue_and_no_task() -> None:
    channel = Channel(queue=0)
    async with serving(channel) as session, session.ws_connect(channel.url) as ws:
        await ws.send_str("open")
        assert await ws.receive_str() == "open"
        tasks = asyncio.all_tasks()
        channel.publish(b"1")
        assert asyncio.all_tasks() == tasks
        assert await ws.receive_str() == "1"


async def test_an_open_socket_keeps_no_headers_that_were_sent() -> None:
    channel = Channel()
    async with serving(channel) as session, session.ws_connect(channel.url):
        await channel.opened(1)
        assert [dict(client.ws.headers) for client in channel.hub.clients] == [{}]


async def test_sending_to_a_connection_that_is_just_lost_raises_and_logs_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    channel = Channel()
    async with serving(channel):
        peer = await channel.raw()
        for client in channel.hub.clients:
            client.transport.abort()
        for _ in range(10):
            channel.publish(b"x")
        await channel.opened(0)
        peer.close()
    assert caplog.records == []


async def test_compression_is_not_negotiated() -> None:
    channel = Channel()
    async with serving(channel) as session, session.ws_connect(channel.url, compress=15) as ws:
        assert not ws.compress


async def test_a_stalled_client_is_dropped_and_counted_and_delays_nobody() -> None:
    channel = Channel(queue=4, close_timeout=0.1)
    async with serving(channel) as session, session.ws_connect(channel.url) as healthy:
        await channel.opened(1)
        stalled = await channel.raw()
        count = 0
        while channel.hub.dropped == 0:
            channel.publish(b"x" * 60_000)
            count += 1
            await healthy.receive_str()
        await channel.opened(1)
        channel.publish(b"after")
        assert await healthy.receive_str() == "after"
        await until(lambda: len(channel.sends) == 1)
        stalled.close()
    assert channel.hub.dropped == 1


async def test_a_slow_client_that_reads_on_sees_1013() -> None:
    channel = Channel(queue=2)
    async with serving(channel) as session:
        ws = await session.ws_connect(channel.url, max_msg_size=0)
        await channel.opened(1)
        while channel.hub.dropped == 0:
            channel.publish(b"x" * 60_000)
        assert await closed_with(ws) == 1013


async def test_a_client_without_heartbeat_answers_is_let_go() -> None:
    channel = Channel(heartbeat=0.05, close_timeout=0.05)
    async with serving(channel):
        silent = await channel.raw()
        await channel.opened(0)
        silent.close()
    assert channel.sends == []


async def test_any_byte_of_a_client_is_a_sign_of_life() -> None:
    channel = Channel(heartbeat=0.05)
    async with serving(channel):
        peer = await channel.raw()
        loop, pings = asyncio.get_running_loop(), b""
        (client,) = channel.hub.clients
        await loop.sock_recv(peer, 4096)  # the answer to the handshake
        await loop.sock_sendall(peer, b"\x81\xfe\xff\xff\0\0\0\0")  # a message that takes its time
        while len(pings) < 8:
            pings += await loop.sock_recv(peer, 4096)
            await loop.sock_sendall(peer, b"x")
        assert pings == b"\x89\0" * 4
        assert channel.hub.clients == {client}
        peer.close()


@pytest.mark.parametrize("size", [0, 125, 126, 65_535, 65_536])
async def test_a_frame_of_any_size_is_whole(size: int) -> None:
    channel = Channel()
    async with serving(channel) as session, session.ws_connect(channel.url) as ws:
        await channel.opened(1)
        channel.publish(b"x" * size)
        channel.publish(b"next")
        assert await ws.receive_str() == "x" * size
        assert await ws.receive_str() == "next"


async def test_a_close_swallows_no_cancellation_of_the_handler() -> None:
    channel, handlers = Channel(), list[asyncio.Task[object]]()
    plain = channel.handler

    async def noted(request: web.Request) -> web.WebSocketResponse:
        handlers.append(asyncio.current_task())  # type: ignore[arg-type]  # inside of one
        return await plain(request)

    channel.handler = noted  # type: ignore[method-assign]  # a stand-in for this test
    async with serving(channel):
        peer = await channel.raw()
        (client,) = channel.hub.clients
        await until(lambda: client._receiver is not None)
        handlers[0].cancel()
        client.close(4000)
        await asyncio.wait(handlers)
        assert handlers[0].cancelled()
        assert channel.hub.open == 0
        peer.close()


async def test_a_message_that_comes_with_the_close_is_not_handled() -> None:
    channel, seen = Channel(), list[str]()

    async def noted(client: Client, text: str) -> None:
        seen.append(text)

    channel.on_text = noted
    async with serving(channel):
        peer = await channel.raw()
        (client,) = channel.hub.clients
        await until(lambda: client._receiver is not None)
        client.data_received(b"\x81\x81\0\0\0\0x")  # its receiver is awake, but has not run
        client.close(4000)
        peer.close()
        await channel.opened(0)
    assert seen == []


async def test_a_drain_closes_all_with_1001_and_waits_for_their_answers() -> None:
    channel = Channel()
    async with serving(channel) as session:
        clients = [await session.ws_connect(channel.url) for _ in range(5)]
        await channel.opened(5)
        codes = asyncio.gather(*map(closed_with, clients))
        await channel.hub.drain(5.0)
        assert channel.hub.open == 0
        assert await codes == [1001] * 5


async def test_a_drain_aborts_those_who_do_not_read_or_answer_in_time() -> None:
    channel = Channel(queue=10_000, close_timeout=30.0)
    async with serving(channel):
        silent = [await channel.raw() for _ in range(2)]
        stalled = [await channel.raw() for _ in range(2)]
        for send in channel.sends[2:]:
            for _ in range(200):
                send(b"x" * 60_000)
        begun = time.monotonic()
        await channel.hub.drain(0.2)
        assert 0.15 < time.monotonic() - begun < 1.0
        assert channel.hub.open == 0
        for connection in silent + stalled:
            connection.close()


async def test_a_message_in_hand_is_finished_before_the_socket_closes() -> None:
    begun, proceed, finished = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def slow(client: Client, text: str) -> None:
        begun.set()
        await proceed.wait()
        finished.set()

    channel = Channel()
    channel.on_text = slow
    async with serving(channel) as session, session.ws_connect(channel.url) as ws:
        await ws.send_str("x")
        await begun.wait()
        draining = asyncio.create_task(channel.hub.drain(5.0))
        await asyncio.sleep(0)
        proceed.set()
        assert await closed_with(ws) == 1001
        await draining
    assert finished.is_set()


async def test_who_connects_to_a_draining_hub_gets_1001() -> None:
    channel = Channel()
    async with serving(channel) as session:
        await channel.hub.drain(1.0)
        ws = await session.ws_connect(channel.url)
        assert await closed_with(ws) == 1001


async def test_after_clients_left_in_every_ugly_way_nothing_is_left(
    caplog: pytest.LogCaptureFixture,
) -> None:
    channel = Channel(close_timeout=0.05)
    async with serving(channel) as session:
        tasks = len(asyncio.all_tasks())
        for n in range(12):
            peer = await channel.raw()
            if n % 3 == 0:  # a reset, with bytes unread
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            elif n % 3 == 1:  # half of a frame
                await asyncio.get_running_loop().sock_sendall(peer, b"\x81\xfe\x10")
            channel.publish(b"x")
            peer.close()
        ws = await session.ws_connect(channel.url)
        await ws.close()
        await channel.opened(0)
        await until(lambda: len(asyncio.all_tasks()) <= tasks)
        gc.collect()
    assert channel.sends == []
    assert [record for record in caplog.records if record.levelname != "DEBUG"] == []


async def test_a_handler_that_is_cancelled_frees_its_client() -> None:
    channel, handlers = Channel(), list[asyncio.Task[object]]()
    plain = channel.handler

    async def noted(request: web.Request) -> web.WebSocketResponse:
        handlers.append(asyncio.current_task())  # type: ignore[arg-type]  # inside of one
        return await plain(request)

    channel.handler = noted  # type: ignore[method-assign]  # a stand-in for this test
    async with serving(channel) as session, session.ws_connect(channel.url):
        await channel.opened(1)
        handlers[0].cancel()
        await channel.opened(0)
        assert handlers[0].cancelling() == 1
    assert channel.sends == []


async def test_a_client_that_left_before_its_turn_is_no_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    channel, gone = Channel(), asyncio.Event()
    plain = channel.handler

    async def late(request: web.Request) -> web.WebSocketResponse:
        while request.transport is not None:  # noqa: ASYNC110  # this is the condition itself
            await asyncio.sleep(0.001)
        gone.set()
        return await plain(request)

    channel.handler = late  # type: ignore[method-assign]  # a stand-in for this test
    async with serving(channel):
        host, _, port = channel.url.removeprefix("http://").removesuffix("/ws").partition(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(HANDSHAKE + b"\r\n")
        await writer.drain()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        await gone.wait()
    assert channel.hub.open == 0
    assert caplog.records == []


async def test_the_wiring_of_the_docstring_works() -> None:
    channel, app = Channel(), web.Application()
    names = {"app": app, "web": web, "Hub": Hub, "on_text": channel.echo}
    block = (pattern.__doc__ or "").split("Wiring::\n\n")[1].split("\n\nNeeds")[0]
    exec(textwrap.dedent(block), {**names, "subscribe_to_chat": channel.source})  # noqa: S102
    channel.handler = next(iter(app.router.routes())).handler  # type: ignore[method-assign, assignment]  # the block's
    async with serving(channel) as session, session.ws_connect(channel.url) as ws:
        await ws.send_str("hello")
        assert await ws.receive_str() == "hello"
