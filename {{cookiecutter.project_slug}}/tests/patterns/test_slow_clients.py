import asyncio
import socket
import textwrap
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress

import pytest
from aiohttp import web

from {{cookiecutter.package_name}}.patterns import slow_clients as pattern
from {{cookiecutter.package_name}}.patterns.slow_clients import cut_off_slow_clients

LARGE = bytes(16 * 2**20)  # more than the kernels of both sides take
GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


@asynccontextmanager
async def serving(
    body: bytes = b"small", *, head: float = 10.0, unread: float = 30.0
) -> AsyncGenerator[tuple[web.Server, socket.socket]]:
    """A server, and a client of it with a small buffer."""

    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=body)

    app = web.Application()
    app.router.add_get("/", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01)
    await runner.setup()
    assert runner.server is not None
    cut_off_slow_clients(runner.server, head=head, unread=unread)
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.setblocking(False)
            await asyncio.get_running_loop().sock_connect(client, runner.addresses[0][:2])
            async with asyncio.timeout(10):
                yield runner.server, client
    finally:
        await runner.cleanup()


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110  # the other end of a socket has no event
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("sent", [b"", b"\r\n", GET[:-2], GET[:-1]])
async def test_who_sends_no_whole_head_is_cut_off(sent: bytes) -> None:
    loop = asyncio.get_running_loop()
    async with serving(head=0.05) as (_, client):
        await loop.sock_sendall(client, sent)
        assert await loop.sock_recv(client, 100) == b""


async def test_who_sends_a_head_byte_by_byte_has_no_more_time() -> None:
    loop = asyncio.get_running_loop()
    async with serving(head=0.1) as (server, client):
        await loop.sock_sendall(client, b"GET / HTTP/1.1\r\nLong: ")
        await until(lambda: server.connections)
        while server.connections:
            with suppress(ConnectionError):  # from one moment on
                await loop.sock_sendall(client, b"x")
            await asyncio.sleep(0.01)  # the pause of a slow sender


@pytest.mark.parametrize("cut", range(1, 5))
async def test_who_has_sent_one_is_served_for_as_long_as_it_likes(cut: int) -> None:
    loop = asyncio.get_running_loop()
    async with serving() as (server, client):
        await loop.sock_sendall(client, GET[:-cut])
        await until(lambda: server.connections)
        (timer,), (handler,) = timers(), server.connections
        await asyncio.sleep(0)  # or both parts could arrive at once
        await loop.sock_sendall(client, GET[-cut:])
        assert (await loop.sock_recv(client, 1000)).endswith(b"small")
        assert timer.cancelled()
        assert handler.transport is not None
        assert handler.transport.get_protocol() is handler  # as if nothing had stood there
        await loop.sock_sendall(client, GET)
        assert (await loop.sock_recv(client, 1000)).endswith(b"small")


async def test_who_leaves_before_leaves_nothing() -> None:
    async with serving() as (server, client):
        await until(lambda: server.connections)
        (timer,) = timers()
        client.close()
        await until(lambda: not server.connections)
        assert timer.cancelled()


def timers() -> list[asyncio.TimerHandle]:
    """Those that would close a connection."""
    scheduled: list[asyncio.TimerHandle] = vars(asyncio.get_running_loop())["_scheduled"]
    return [each for each in scheduled if ".close" in repr(each)]


async def test_who_reads_nothing_is_cut_off_and_costs_nothing_more() -> None:
    async with serving(LARGE, unread=0.2) as (server, client):
        await asyncio.get_running_loop().sock_sendall(client, GET)
        await until(lambda: server.connections)
        (transport,) = [each.transport for each in server.connections]
        assert transport is not None
        await until(transport.get_write_buffer_size)
        await until(lambda: not server.connections)
        assert transport.get_write_buffer_size() == 0


async def test_who_reads_in_pieces_gets_everything() -> None:
    received, loop = 0, asyncio.get_running_loop()
    async with serving(LARGE, unread=0.2) as (_, client):
        await loop.sock_sendall(client, GET)
        until = loop.time() + 0.6  # three times as long as it may read nothing
        while received < len(LARGE):
            if loop.time() < until:
                await asyncio.sleep(0.02)  # the pause of a slow reader
            received += len(await loop.sock_recv(client, 65_536))


async def test_what_is_no_tcp_is_served_as_before() -> None:
    runner = web.AppRunner(web.Application(), access_log=None)
    await runner.setup()
    assert runner.server is not None
    cut_off_slow_clients(runner.server)
    ours, theirs = socket.socketpair()
    await asyncio.get_running_loop().connect_accepted_socket(runner.server, ours)
    reader, writer = await asyncio.open_connection(sock=theirs)
    writer.write(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    async with asyncio.timeout(5):
        assert (await reader.read()).startswith(b"HTTP/1.1 404 ")
    writer.close()
    await runner.cleanup()


async def test_the_wiring_of_the_docstring_works() -> None:
    block = (pattern.__doc__ or "").split("Wiring::")[1].split("Needs:")[0]
    runner = web.AppRunner(web.Application())
    body = textwrap.indent(textwrap.dedent(block), "    ")
    names = {"cut_off_slow_clients": cut_off_slow_clients, "runner": runner}
    exec(f"async def wire():\n{body}", names)  # noqa: S102
    await names["wire"]()  # type: ignore[operator]  # made by the line above
    assert runner.server is not None
    assert "connection_made" in vars(runner.server)
    await runner.cleanup()
