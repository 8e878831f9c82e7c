import asyncio
import socket
import textwrap
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from aiohttp import web

from {{cookiecutter.package_name}}.patterns import slow_readers as pattern
from {{cookiecutter.package_name}}.patterns.slow_readers import cut_off_slow_readers

LARGE = bytes(16 * 2**20)  # more than the kernels of both sides take


@asynccontextmanager
async def serving(seconds: float) -> AsyncGenerator[tuple[web.Server, socket.socket]]:
    """A server, and a client with a small buffer that has asked for a large answer."""

    async def large(request: web.Request) -> web.Response:
        return web.Response(body=LARGE)

    app = web.Application()
    app.router.add_get("/", large)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01)
    await runner.setup()
    assert runner.server is not None
    cut_off_slow_readers(runner.server, seconds)
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, runner.addresses[0][:2])
        await loop.sock_sendall(client, b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        yield runner.server, client
    await runner.cleanup()


async def test_who_reads_nothing_is_cut_off_and_costs_nothing_more() -> None:
    async with serving(0.2) as (server, _), asyncio.timeout(10):
        while not server.connections:  # noqa: ASYNC110  # the other end of a socket has no event
            await asyncio.sleep(0.001)
        (transport,) = [each.transport for each in server.connections]
        assert transport is not None
        while not transport.get_write_buffer_size():  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        while server.connections:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert transport.get_write_buffer_size() == 0


async def test_who_reads_in_pieces_gets_everything() -> None:
    received, loop = 0, asyncio.get_running_loop()
    async with serving(0.2) as (_, client), asyncio.timeout(10):
        until = loop.time() + 0.6  # three times as long as it may read nothing
        while received < len(LARGE):
            if loop.time() < until:
                await asyncio.sleep(0.02)  # the pause of a slow reader
            received += len(await loop.sock_recv(client, 65_536))


async def test_what_is_no_tcp_is_served_as_before() -> None:
    async def small(request: web.Request) -> web.Response:
        return web.Response(text="small")

    runner = web.AppRunner(app := web.Application(), access_log=None)
    app.router.add_get("/", small)
    await runner.setup()
    assert runner.server is not None
    cut_off_slow_readers(runner.server)
    ours, theirs = socket.socketpair()
    loop = asyncio.get_running_loop()
    await loop.connect_accepted_socket(runner.server, ours)
    reader, writer = await asyncio.open_connection(sock=theirs)
    writer.write(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    async with asyncio.timeout(5):
        assert (await reader.read()).endswith(b"small")
    writer.close()
    await runner.cleanup()


async def test_the_wiring_of_the_docstring_works() -> None:
    block = (pattern.__doc__ or "").split("Wiring::")[1].split("Needs:")[0]
    runner = web.AppRunner(web.Application())
    body = textwrap.indent(textwrap.dedent(block), "    ")
    names = {"cut_off_slow_readers": cut_off_slow_readers, "runner": runner}
    exec(f"async def wire():\n{body}", names)  # noqa: S102
    await names["wire"]()  # type: ignore[operator]
    assert runner.server is not None
    assert "connection_made" in vars(runner.server)
    await runner.cleanup()
