import asyncio
import errno
import logging
import textwrap
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.http import HttpProcessingError

from {{cookiecutter.package_name}}.patterns import server_noise as pattern
from {{cookiecutter.package_name}}.patterns.server_noise import quiet_noise


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def record(error: Exception | None, name: str = "aiohttp.server") -> logging.LogRecord:
    info = (type(error), error, None) if error is not None else None
    return logging.LogRecord(name, logging.ERROR, "", 1, "from %s", ("1.2.3.4",), info)


@pytest.fixture(autouse=True)
def everything_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.DEBUG):
        yield


def test_a_malformed_request_is_information_without_its_bytes() -> None:
    line = record(HttpProcessingError(message="secret bytes"))
    assert quiet_noise()(line)
    assert (line.levelno, line.levelname, line.exc_info) == (logging.INFO, "INFO", None)
    assert line.getMessage() == "malformed request: HttpProcessingError (0 more left out)"


def test_a_body_that_is_not_what_its_headers_say_is_information() -> None:
    line = record(web.RequestPayloadError("secret bytes"))
    assert quiet_noise()(line)
    assert (line.levelno, line.exc_info) == (logging.INFO, None)


@pytest.mark.parametrize(
    ("leaves", "level"),
    [(True, logging.DEBUG), (False, logging.ERROR)],
    ids=["a client that left", "a database that left"],
)
async def test_only_a_connection_that_the_client_gave_up_is_for_debugging(
    leaves: bool, level: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(request: web.Request) -> web.Response:
        if leaves:
            while request.transport is not None:  # noqa: ASYNC110  # nothing tells of it
                await asyncio.sleep(0)
        raise ConnectionResetError("lost")

    app = web.Application()
    app.router.add_get("/", handler)
    async with noticed(app) as (_, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        if leaves:
            writer.transport.abort()
        async with asyncio.timeout(5):
            while not server_lines(caplog):  # noqa: ASYNC110  # a log line has no event
                await asyncio.sleep(0)
    (line,) = server_lines(caplog)
    assert line.levelno == level
    assert bool(line.exc_info) is not leaves


async def test_an_answer_to_a_client_that_left_is_for_debugging(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        assert request.transport is not None
        request.transport.abort()
        try:
            await response.write(b"too late")
        except ConnectionError as error:
            # As one that wraps it would: this is still the client's doing.
            raise ConnectionAbortedError from error
        return response

    app = web.Application()
    app.router.add_get("/", handler)
    async with noticed(app) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.read()
        async with asyncio.timeout(5):
            while not server_lines(caplog):  # noqa: ASYNC110  # a log line has no event
                await asyncio.sleep(0)
    assert [line.levelno for line in server_lines(caplog)] == [logging.DEBUG]


def test_the_lack_of_descriptors_stays_an_error() -> None:
    line = record(OSError(errno.EMFILE, "too many open files"), "asyncio")
    assert quiet_noise()(line)
    assert (line.levelno, line.exc_info) == (logging.ERROR, None)


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (None, "aiohttp.server"),
        (ValueError("a bug"), "aiohttp.server"),
        (OSError(errno.ENOENT, "no such file"), "asyncio"),
        (ConnectionResetError("of an upstream"), "asyncio"),
        (ConnectionResetError("of nobody knows what"), "aiohttp.server"),
    ],
)
def test_other_records_pass_untouched(error: Exception | None, name: str) -> None:
    line = record(error, name)
    assert quiet_noise()(line)
    assert (line.levelno, line.getMessage()) == (logging.ERROR, "from 1.2.3.4")


def test_one_line_passes_in_a_while_and_says_how_many_did_not() -> None:
    clock = Clock()
    passes = quiet_noise(every=1, now=clock)
    lines = [record(HttpProcessingError()) for _ in range(5)]
    assert [passes(line) for line in lines[:4]] == [True, False, False, False]
    clock.now = 1.0
    assert passes(lines[4])
    assert lines[4].getMessage() == "malformed request: HttpProcessingError (3 more left out)"


def test_kinds_of_noise_do_not_silence_each_other() -> None:
    passes = quiet_noise(every=1, now=Clock())
    assert passes(record(HttpProcessingError()))
    assert passes(record(OSError(errno.EMFILE, "too many"), "asyncio"))


def test_a_line_below_the_level_that_is_wanted_is_left_out() -> None:
    logging.getLogger("aiohttp.server").setLevel(logging.WARNING)
    try:
        assert not quiet_noise()(record(HttpProcessingError()))
    finally:
        logging.getLogger("aiohttp.server").setLevel(logging.NOTSET)


@asynccontextmanager
async def noticed(
    app: web.Application,
) -> AsyncGenerator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to a server whose log has the filter."""
    noise = quiet_noise()
    logging.getLogger("aiohttp.server").addFilter(noise)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    reader, writer = await asyncio.open_connection(*runner.addresses[0][:2])
    try:
        yield reader, writer
    finally:
        writer.close()
        await runner.cleanup()
        logging.getLogger("aiohttp.server").removeFilter(noise)


def server_lines(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [line for line in caplog.records if line.name == "aiohttp.server"]


async def test_bytes_that_are_not_http_leave_one_quiet_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with noticed(web.Application()) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nBad Header: secret\r\n\r\n")
        assert (await reader.readline()).split()[1] == b"400"
    assert [line.levelno for line in server_lines(caplog)] == [logging.INFO]
    assert "secret" not in caplog.text


def test_the_wiring_of_the_docstring_works() -> None:
    wiring = textwrap.dedent((pattern.__doc__ or "").split("Wiring::")[1].split("Needs:")[0])
    exec(wiring, {**vars(pattern)})  # noqa: S102
    for name in ("aiohttp.server", "asyncio"):
        logger = logging.getLogger(name)
        logger.removeFilter(logger.filters[-1])
