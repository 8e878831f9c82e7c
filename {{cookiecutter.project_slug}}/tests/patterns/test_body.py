import asyncio
import gzip
import textwrap
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest
from aiohttp import web

from {{cookiecutter.package_name}}.patterns import body as pattern
from {{cookiecutter.package_name}}.patterns.body import bounded_body, continue_when_read

Read = Callable[[web.Request], Awaitable[bytes]]
SMALL = bounded_body(max_bytes=1000, timeout=5)
IMPATIENT = bounded_body(max_bytes=1000, timeout=0.02, patience=0.01)


class Wire:
    """A client that sees bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.failed: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()

    async def post(self, body: bytes = b"", *headers: str, length: int | None = None) -> None:
        lines = ["POST / HTTP/1.1", "Host: x", *headers]
        if not any("Transfer-Encoding" in header for header in headers):
            lines.append(f"Content-Length: {len(body) if length is None else length}")
        self.writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        await self.writer.drain()

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.strip().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        body = await self.reader.readexactly(int(headers.get("Content-Length", 0)))
        return int(first.split()[1]), headers, body


@asynccontextmanager
async def connected(read: Read) -> AsyncGenerator[Wire]:
    async def handler(request: web.Request) -> web.Response:
        try:
            return web.Response(body=await read(request))
        except Exception as error:
            wire.failed.set_result(error)
            raise

    app = web.Application()
    app.router.add_post("/", handler, expect_handler=continue_when_read)
    runner = web.AppRunner(app, shutdown_timeout=0.01, lingering_time=0.01)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    wire = Wire(*await asyncio.open_connection(host, port))
    try:
        async with asyncio.timeout(5):
            yield wire
    finally:
        wire.writer.close()
        await runner.cleanup()


async def test_a_body_within_its_bounds_is_returned_whole() -> None:
    async with connected(SMALL) as wire:
        for body in (b"", b"hello", b"x" * 1000):
            await wire.post(body)
            status, _, echoed = await wire.answer()
            assert (status, echoed) == (200, body)


async def test_a_body_may_come_in_pieces() -> None:
    async with connected(SMALL) as wire:
        await wire.post(b"hel", length=5)
        await asyncio.sleep(0.001)
        wire.writer.write(b"lo")
        assert (await wire.answer())[2] == b"hello"


async def test_a_compressed_body_is_returned_decompressed() -> None:
    async with connected(SMALL) as wire:
        await wire.post(gzip.compress(b"hello"), "Content-Encoding: gzip")
        assert (await wire.answer())[2] == b"hello"


async def test_a_declared_length_above_the_limit_is_refused_before_the_body_comes() -> None:
    async with connected(SMALL) as wire:
        await wire.post(length=1001)
        status, headers, body = await wire.answer()
        assert (status, headers["Connection"]) == (413, "close")
        assert body == b"The request body is larger than 1000 bytes."
        assert await wire.reader.read() == b""


@pytest.mark.parametrize("end", [b"", b"0\r\n\r\n"])
async def test_an_undeclared_body_is_refused_once_it_is_too_large(end: bytes) -> None:
    async with connected(SMALL) as wire:
        await wire.post(b"3e9\r\n" + b"x" * 1001 + b"\r\n" + end, "Transfer-Encoding: chunked")
        assert (await wire.answer())[0] == 413


async def test_a_compression_bomb_is_refused_by_its_decompressed_size() -> None:
    bomb = gzip.compress(bytes(900_000))
    assert len(bomb) < 1000
    async with connected(SMALL) as wire:
        await wire.post(bomb, "Content-Encoding: gzip")
        assert (await wire.answer())[0] == 413


@pytest.mark.parametrize("coding", ["compress", "gzip, gzip", "nonsense"])
async def test_an_unknown_coding_is_refused_with_those_that_are_known(coding: str) -> None:
    async with connected(SMALL) as wire:
        await wire.post(b"hello", f"Content-Encoding: {coding}")
        status, headers, _ = await wire.answer()
        assert (status, headers["Accept-Encoding"]) == (415, "gzip, deflate")


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
async def test_broken_compression_is_a_client_error(coding: str) -> None:
    async with connected(SMALL) as wire:
        await wire.post(b"not compressed at all", f"Content-Encoding: {coding}")
        assert (await wire.answer())[0] == 400


async def test_broken_framing_is_a_client_error() -> None:
    async with connected(SMALL) as wire:
        await wire.post(b"5\r\nhello\r\nnonsense\r\n", "Transfer-Encoding: chunked")
        assert (await wire.answer())[0] == 400


async def test_a_stalled_body_times_out_and_the_connection_closes() -> None:
    async with connected(IMPATIENT) as wire:
        await wire.post(b"hel", length=5)
        status, headers, _ = await wire.answer()
        assert (status, headers["Connection"]) == (408, "close")
        assert await wire.reader.read() == b""


async def test_a_dripping_body_does_not_win_time() -> None:
    async with connected(IMPATIENT) as wire:
        await wire.post(b"", length=1000)

        async def drip() -> None:
            while True:
                wire.writer.write(b"x")
                await asyncio.sleep(0.002)

        dripping = asyncio.create_task(drip())
        assert (await wire.answer())[0] == 408
        dripping.cancel()


async def test_only_a_body_that_is_late_is_waited_for_without_a_permit() -> None:
    waited: list[str] = []
    entered = asyncio.Event()

    @contextmanager
    def waiting(request: web.Request) -> Iterator[None]:
        waited.append("entered")
        entered.set()
        yield
        waited.append("left")

    read = bounded_body(max_bytes=1000, timeout=5, patience=0.01, waiting=waiting)
    async with connected(read) as wire:
        await wire.post(b"at once")
        assert (await wire.answer())[0] == 200
        assert waited == []
        await wire.post(b"in two ", length=12)
        await entered.wait()
        wire.writer.write(b"parts")
        assert (await wire.answer())[2] == b"in two parts"
        assert waited == ["entered", "left"]


async def test_a_client_that_leaves_is_told_apart_from_an_error() -> None:
    async with connected(SMALL) as wire:
        await wire.post(b"hel", length=5)
        await asyncio.sleep(0.01)
        wire.writer.transport.abort()
        assert isinstance(await wire.failed, ConnectionResetError)


async def test_an_error_of_the_operating_system_is_not_taken_for_the_client() -> None:
    @contextmanager
    def broken(request: web.Request) -> Iterator[None]:
        raise OSError("disk full")
        yield

    read = bounded_body(max_bytes=1000, timeout=5, patience=0.01, waiting=broken)
    async with connected(read) as wire:
        await wire.post(b"", length=5)
        assert (await wire.answer())[0] == 500


async def test_100_continue_is_said_when_the_body_is_wanted() -> None:
    async with connected(SMALL) as wire:
        await wire.post(b"", "Expect: 100-continue", length=5)
        assert (await wire.answer())[0] == 100
        wire.writer.write(b"hello")
        status, _, body = await wire.answer()
        assert (status, body) == (200, b"hello")


async def test_100_continue_is_not_said_for_a_body_that_is_refused() -> None:
    async with connected(SMALL) as wire:
        await wire.post(b"", "Expect: 100-continue", length=5000)
        assert (await wire.answer())[0] == 413


async def test_an_unknown_expectation_is_refused_without_an_echo() -> None:
    async with connected(SMALL) as wire:
        await wire.post(b"hello", "Expect: wonders")
        status, _, body = await wire.answer()
        assert status == 417
        assert b"wonders" not in body


async def test_http_1_0_knows_no_expectations() -> None:
    async with connected(SMALL) as wire:
        wire.writer.write(
            b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello"
        )
        assert (await wire.answer())[2] == b"hello"


async def test_the_wiring_of_the_docstring_works() -> None:
    app = web.Application()

    async def handler(request: web.Request) -> web.Response:
        raise NotImplementedError

    wiring = textwrap.dedent((pattern.__doc__ or "").split("Wiring::")[1].split("Needs:")[0])
    exec(wiring, {**vars(pattern), "app": app, "handler": handler})  # noqa: S102
    assert len(app.router.routes()) == 1
