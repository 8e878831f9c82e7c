import asyncio
import hashlib
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from textwrap import dedent

import aiohttp
import pytest
from aiohttp import web

from {{cookiecutter.package_name}}.patterns import downloads as pattern
from {{cookiecutter.package_name}}.patterns.downloads import Known, download, in_thread

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
MEGABYTE = b"x" * 2**20


@asynccontextmanager
async def serving(handler: Handler) -> AsyncGenerator[str]:
    app = web.Application()
    app.router.add_get("/", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.01)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    try:
        async with asyncio.timeout(5):
            yield f"http://{host}:{port}/"
    finally:
        await runner.cleanup()


class Source:
    """Chunks, and what became of their generator."""

    def __init__(self, *chunks: bytes, error: Exception | None = None) -> None:
        self.parts, self.error = chunks, error
        self.asked = 0
        self.closed = asyncio.Event()

    async def chunks(self) -> AsyncGenerator[bytes]:
        try:
            for each in self.parts:
                self.asked += 1
                yield each
            if self.error is not None:
                raise self.error
        finally:
            self.closed.set()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        return await download(request, self.chunks(), filename="rows.csv", content_type="text/csv")


async def test_chunks_arrive_as_a_file_to_be_saved() -> None:
    source = Source(b"a,b\n", b"", b"1,2\n")
    async with serving(source.handle) as url, aiohttp.request("GET", url) as response:
        assert await response.read() == b"a,b\n1,2\n"
        assert response.content_type == "text/csv"
        assert response.headers["Content-Disposition"].startswith("attachment; ")
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert source.closed.is_set()


async def test_an_empty_source_is_an_empty_file() -> None:
    async with serving(Source().handle) as url, aiohttp.request("GET", url) as response:
        assert (response.status, await response.read()) == (200, b"")


@pytest.mark.parametrize(
    ("name", "plain", "real"),
    [
        ("rows.csv", "rows.csv", "rows.csv"),
        ("Übersicht 50%.csv", "_bersicht 50_.csv", "%C3%9Cbersicht%2050%25.csv"),
        ('../a"b\\c\r\nX: y', ".._a_b_c__X: y", ".._a_b_c__X%3A%20y"),
    ],
)
async def test_a_name_is_sent_for_old_and_new_clients_and_breaks_no_header(
    name: str, plain: str, real: str
) -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        return await download(request, Source(b"x").chunks(), filename=name)

    async with serving(handle) as url, aiohttp.request("GET", url) as response:
        expected = f"attachment; filename=\"{plain}\"; filename*=UTF-8''{real}"
        assert response.headers["Content-Disposition"] == expected


async def test_a_known_length_and_digest_are_announced() -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        known = Known(5, hashlib.sha256(b"hello").digest())
        return await download(request, Source(b"he", b"llo").chunks(), filename="x", known=known)

    async with serving(handle) as url, aiohttp.request("GET", url) as response:
        assert await response.read() == b"hello"
        assert response.content_length == 5
        digest = "sha-256=:LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=:"
        assert response.headers["Repr-Digest"] == digest


async def test_head_announces_without_asking_the_source() -> None:
    source = Source(b"hello")

    async def handle(request: web.Request) -> web.StreamResponse:
        return await download(request, source.chunks(), filename="x", known=Known(5))

    async with serving(handle) as url, aiohttp.request("HEAD", url) as response:
        assert (response.status, response.content_length) == (200, 5)
    assert source.asked == 0


async def test_an_error_before_the_first_chunk_is_an_answer() -> None:
    source = Source(error=web.HTTPNotFound())
    async with serving(source.handle) as url, aiohttp.request("GET", url) as response:
        assert response.status == 404


@pytest.mark.parametrize("error", [OSError("disk"), web.HTTPNotFound()])
async def test_an_error_later_breaks_the_file_off_and_writes_nothing_into_it(
    error: Exception,
) -> None:
    source = Source(b"first", error=error)
    async with serving(source.handle) as url, aiohttp.request("GET", url) as response:
        assert await response.content.readexactly(5) == b"first"
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.content.readany()
        assert source.closed.is_set()


@pytest.mark.parametrize("length", [4, 6])
async def test_another_length_than_announced_breaks_the_file_off(
    caplog: pytest.LogCaptureFixture, length: int
) -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        chunks = Source(b"abc", b"de").chunks()
        return await download(request, chunks, filename="x", known=Known(length))

    async with serving(handle) as url, aiohttp.request("GET", url) as response:
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()
    assert "has not the length that was announced" in caplog.text


async def test_a_client_that_leaves_closes_the_source_and_is_no_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = Source(*[MEGABYTE] * 1000)
    async with serving(source.handle) as url, aiohttp.request("GET", url) as response:
        await response.content.readany()
        response.close()
        await source.closed.wait()
        assert source.asked < 100
    assert not caplog.records


@asynccontextmanager
async def not_reading(url: str) -> AsyncGenerator[None]:
    """A client that asks and then reads nothing, with little room before it."""
    host, port = url.removeprefix("http://").rstrip("/").split(":")
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(sock, (host, int(port)))
        await asyncio.get_running_loop().sock_sendall(sock, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        yield
    finally:
        sock.close()


async def test_the_source_is_asked_no_faster_than_the_client_reads() -> None:
    source = Source(*[MEGABYTE] * 1000)
    async with serving(source.handle) as url, not_reading(url):
        before = -1
        while source.asked != before or not source.asked:
            before = source.asked
            await asyncio.sleep(0.05)
        assert source.asked < 20


async def test_a_client_that_stops_reading_is_let_go(caplog: pytest.LogCaptureFixture) -> None:
    source = Source(*[MEGABYTE] * 1000)
    transports: list[asyncio.Transport | None] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        transports.append(request.transport)
        return await download(request, source.chunks(), filename="x", stall=0.02)

    async with serving(handle) as url, not_reading(url):
        await source.closed.wait()
        assert transports[0] is not None
        assert transports[0].is_closing()
    assert not caplog.records


class Cursor:
    """A blocking source, such as a database cursor."""

    def __init__(self) -> None:
        self.closed = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        with pytest.raises(RuntimeError, match="no running event loop"):
            asyncio.get_running_loop()
        return b"row\n"

    def close(self) -> None:
        self.closed = True


async def test_a_blocking_source_is_read_in_threads_and_closed() -> None:
    cursor = Cursor()
    rows = in_thread(cursor)
    assert [await anext(rows), await anext(rows)] == [b"row\n", b"row\n"]
    await rows.aclose()
    assert cursor.closed


async def test_a_blocking_source_that_ends_need_not_be_closable() -> None:
    assert [chunk async for chunk in in_thread([b"a", b"b"])] == [b"a", b"b"]


async def test_the_wiring_of_the_docstring_works() -> None:
    app = web.Application()
    names = {"app": app, "web": web, "download": download, "rows": Source(b"1,2\n").chunks}
    exec(dedent((pattern.__doc__ or "").split("Wiring::")[1].split("Needs:")[0]), names)  # noqa: S102
    (route,) = (each for each in app.router.routes() if each.method == "GET")
    async with serving(route.handler) as url, aiohttp.request("GET", url) as response:
        assert await response.read() == b"1,2\n"
