import asyncio
import socket
import struct
import textwrap
import time
import tracemalloc
import zlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress

import aiohttp
import pytest
from aiohttp import web
from pydantic import BaseModel

from {{cookiecutter.package_name}}.patterns import upstream as pattern
from {{cookiecutter.package_name}}.patterns.upstream import Upstream

Script = Callable[[asyncio.StreamWriter], Awaitable[None]]
Serve = Callable[[Script], Awaitable[str]]
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


class Answer(BaseModel):
    name: str
    value: float


@pytest.fixture
async def serve() -> AsyncGenerator[Serve]:
    """Start raw servers that run a script on each connection once its request has come."""
    opened: list[tuple[asyncio.Task[None] | None, asyncio.StreamWriter]] = []
    servers: list[asyncio.Server] = []

    async def start(script: Script) -> str:
        async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            opened.append((asyncio.current_task(), writer))
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                await reader.readuntil(b"\r\n\r\n")
                await script(writer)
            writer.close()

        servers.append(await asyncio.start_server(connection, "127.0.0.1", 0))
        return f"http://127.0.0.1:{servers[-1].sockets[0].getsockname()[1]}"

    yield start
    for server in servers:
        server.close()
    for task, writer in opened:
        assert task is not None
        task.cancel()
        await asyncio.wait({task})
        writer.transport.abort()
    await asyncio.sleep(0)  # transports close their sockets in the loop's next pass


@pytest.fixture
async def session() -> AsyncGenerator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as opened:
        yield opened


def sends(*parts: bytes) -> Script:
    async def script(writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()

    return script


def body(content: bytes, head: bytes = OK) -> bytes:
    return head + b"Content-Length: %d\r\n\r\n" % len(content) + content


async def hang(writer: asyncio.StreamWriter) -> None:
    await asyncio.get_running_loop().create_future()


async def drip(writer: asyncio.StreamWriter) -> None:
    writer.write(OK + b"Content-Length: 100000\r\n\r\n")
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.005)


async def reset(writer: asyncio.StreamWriter) -> None:
    sock: socket.socket = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def flood(writer: asyncio.StreamWriter) -> None:
    writer.write(OK + b"Content-Length: 1073741824\r\n\r\n")
    for _ in range(1024):
        writer.write(b" " * 1024 * 1024)
        await writer.drain()


async def test_returns_the_validated_model(serve: Serve, session: aiohttp.ClientSession) -> None:
    upstream = Upstream(await serve(sends(body(b'{"name": "NaN", "value": 1.5}'))))
    assert await upstream.get(session, "/", Answer) == Answer(name="NaN", value=1.5)
    assert (upstream.slow, upstream.broken, upstream.refused, upstream.in_flight) == (0, 0, 0, 0)


async def test_joins_the_path_to_a_base_that_has_one(session: aiohttp.ClientSession) -> None:
    async def echo(request: web.Request) -> web.Response:
        return web.json_response({"name": request.raw_path, "value": 0})

    app = web.Application()
    app.router.add_get("/{any:.*}", echo)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    upstream = Upstream(f"http://127.0.0.1:{runner.addresses[0][1]}/v2/")
    assert (await upstream.get(session, "/answers/42", Answer)).name == "/v2/answers/42"
    await runner.cleanup()


@pytest.mark.parametrize("script", [hang, drip], ids=["hanging", "dripping"])
async def test_too_slow_is_a_504_within_the_timeout(
    script: Script, serve: Serve, session: aiohttp.ClientSession
) -> None:
    upstream = Upstream(await serve(script), timeout=0.05)
    started = time.monotonic()
    with pytest.raises(web.HTTPGatewayTimeout):
        await upstream.get(session, "/", Answer)
    assert 0.04 < time.monotonic() - started < 0.5
    assert (upstream.slow, upstream.in_flight) == (1, 0)


@pytest.mark.parametrize("within", [0.05, 0.0, -1.0])
async def test_the_time_the_request_has_left_is_kept(
    within: float, serve: Serve, session: aiohttp.ClientSession
) -> None:
    upstream = Upstream(await serve(hang), timeout=60)
    async with asyncio.timeout(2):
        with pytest.raises(web.HTTPGatewayTimeout):
            await upstream.get(session, "/", Answer, within)


CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
GZIP = OK + b"Content-Encoding: gzip\r\n"
VALID = b'{"name": "a", "value": 1}'
BROKEN: dict[str, Script] = {
    "reset": reset,
    "closed without an answer": sends(),
    "closed in the headers": sends(OK),
    "closed in the body": sends(OK + b"Content-Length: 100\r\n\r\n{"),
    "closed in a chunk": sends(CHUNKED + b"ff\r\n{"),
    "garbage": sends(b"\x00\xff" * 100),
    "garbage chunks": sends(CHUNKED + b"zz\r\n{}\r\n"),
    "huge header": sends(b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000 + b"\r\n\r\n"),
    "unknown encoding": sends(body(VALID, OK + b"Content-Encoding: br\r\n")),
    "broken encoding": sends(body(VALID, GZIP)),
    "truncated JSON": sends(body(VALID[:-1])),
    "not UTF-8": sends(body(b'{"name": "\xff", "value": 1}')),
    "deep JSON": sends(body(b"[" * 100_000)),
    "wrong JSON": sends(body(b'{"name": "a"}')),
    "NaN": sends(body(b'{"name": "a", "value": NaN}')),
    "Infinity": sends(body(b'{"name": "a", "value": -Infinity}')),
    "empty": sends(b"HTTP/1.1 204 No Content\r\n\r\n"),
    "HTML": sends(body(VALID, b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n")),
    "redirect": sends(body(VALID, b"HTTP/1.1 302 Found\r\nLocation: /\r\n")),
    "400": sends(body(VALID, b"HTTP/1.1 400 Bad Request\r\n")),
    "500": sends(body(VALID, b"HTTP/1.1 500 Secret words\r\n")),
    "503": sends(body(VALID, b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 60\r\n")),
    "too large by a byte": sends(body(VALID + b" " * (4097 - len(VALID)))),
}


@pytest.mark.parametrize("script", BROKEN.values(), ids=BROKEN.keys())
async def test_a_broken_answer_is_a_502_in_our_words(
    script: Script, serve: Serve, session: aiohttp.ClientSession
) -> None:
    upstream = Upstream(await serve(script), max_bytes=4096, timeout=2)
    with pytest.raises(web.HTTPBadGateway) as caught:
        await upstream.get(session, "/", Answer)
    assert caught.value.text == "An upstream service gave no usable answer."
    assert (upstream.broken, upstream.in_flight) == (1, 0)


async def test_nobody_listening_is_a_502(
    unused_tcp_port: int, session: aiohttp.ClientSession
) -> None:
    with pytest.raises(web.HTTPBadGateway):
        await Upstream(f"http://127.0.0.1:{unused_tcp_port}").get(session, "/", Answer)


async def bomb(writer: asyncio.StreamWriter) -> None:
    deflate = zlib.compressobj(9, wbits=31)
    parts = [deflate.compress(b" " * 1024 * 1024) for _ in range(50)]
    writer.write(body(b"".join(parts) + deflate.flush(), GZIP))


@pytest.mark.parametrize("script", [flood, bomb], ids=["a gigabyte", "compression bomb"])
async def test_an_answer_without_end_takes_little_memory(
    script: Script, serve: Serve, session: aiohttp.ClientSession
) -> None:
    upstream = Upstream(await serve(script))
    tracemalloc.start()
    try:
        with pytest.raises(web.HTTPBadGateway):
            await upstream.get(session, "/", Answer)
        assert tracemalloc.get_traced_memory()[1] < 20 * 1024 * 1024
    finally:
        tracemalloc.stop()


async def test_no_redirect_is_followed(serve: Serve, session: aiohttp.ClientSession) -> None:
    asked: list[None] = []

    async def loop(writer: asyncio.StreamWriter) -> None:
        asked.append(None)
        writer.write(body(b"", b"HTTP/1.1 307 Temporary Redirect\r\nLocation: /again\r\n"))

    with pytest.raises(web.HTTPBadGateway):
        await Upstream(await serve(loop)).get(session, "/", Answer)
    assert len(asked) == 1


@pytest.mark.parametrize(
    "kind", ["", "Content-Type: text/plain\r\n", "Content-Type: application/x+json\r\n"]
)
async def test_json_under_a_careless_type_is_taken(
    kind: str, serve: Serve, session: aiohttp.ClientSession
) -> None:
    upstream = Upstream(await serve(sends(body(VALID, b"HTTP/1.1 200 OK\r\n" + kind.encode()))))
    assert (await upstream.get(session, "/", Answer)).name == "a"


async def test_a_404_stays_one_without_the_upstreams_words(
    serve: Serve, session: aiohttp.ClientSession
) -> None:
    upstream = Upstream(await serve(sends(body(b"secret", b"HTTP/1.1 404 Secret\r\n"))))
    with pytest.raises(web.HTTPNotFound) as caught:
        await upstream.get(session, "/", Answer)
    assert "ecret" not in f"{caught.value.text}{caught.value.reason}"
    assert upstream.broken == 0


async def test_the_statuses_that_pass_can_be_chosen(
    serve: Serve, session: aiohttp.ClientSession
) -> None:
    url = await serve(sends(body(b"", b"HTTP/1.1 410 Gone\r\n")))
    with pytest.raises(web.HTTPGone):
        await Upstream(url, passes=(web.HTTPNotFound, web.HTTPGone)).get(session, "/", Answer)


async def test_an_open_breaker_is_a_503_with_retry_after(serve: Serve) -> None:
    class Open(aiohttp.ClientError):
        retry_after = 6.5

    async def breaker(
        request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        raise Open

    upstream = Upstream("http://127.0.0.1:9")
    async with aiohttp.ClientSession(middlewares=(breaker,)) as session:
        with pytest.raises(web.HTTPServiceUnavailable) as caught:
            await upstream.get(session, "/", Answer)
    assert 8 <= int(caught.value.headers["Retry-After"]) <= 10
    assert (upstream.refused, upstream.broken) == (1, 0)


async def test_the_log_names_the_fault_but_quotes_nothing(
    serve: Serve, session: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    url = await serve(sends(body(b"", b"HTTP/1.1 500 Secret\r\n")))
    upstream = Upstream(url.replace("//", "//user:secret@"))
    with pytest.raises(web.HTTPBadGateway):
        await upstream.get(session, "/", Answer)
    assert caplog.messages == ["upstream 127.0.0.1: ClientResponseError 500"]


async def test_a_connection_timeout_ends_inside_the_middlewares(serve: Serve) -> None:
    seen: list[Exception] = []

    async def watch(
        request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        try:
            return await handler(request)
        except aiohttp.ConnectionTimeoutError as error:
            seen.append(error)
            raise

    upstream = Upstream(await serve(hang), timeout=0.2)
    connector = aiohttp.TCPConnector(limit=1)
    async with aiohttp.ClientSession(connector=connector, middlewares=(watch,)) as session:
        answers = [upstream.get(session, "/", Answer) for _ in range(2)]
        for error in await asyncio.gather(*answers, return_exceptions=True):
            assert isinstance(error, web.HTTPGatewayTimeout)
    assert len(seen) == 1


async def test_a_cancelled_call_gives_its_slot_back(
    serve: Serve, session: aiohttp.ClientSession
) -> None:
    arrived = asyncio.Event()

    async def announce(writer: asyncio.StreamWriter) -> None:
        arrived.set()
        await hang(writer)

    upstream = Upstream(await serve(announce))
    call = asyncio.create_task(upstream.get(session, "/", Answer))
    await arrived.wait()
    assert upstream.in_flight == 1
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert upstream.in_flight == 0


async def test_local_routes_answer_while_a_hundred_calls_hang(
    serve: Serve, session: aiohttp.ClientSession
) -> None:
    upstream = Upstream(await serve(hang), max_concurrent=40, timeout=0.4)

    async def remote(request: web.Request) -> web.Response:
        await upstream.get(session, "/", Answer)
        return web.Response()

    async def local(request: web.Request) -> web.Response:
        return web.Response(text="here")

    app = web.Application()
    app.router.add_get("/remote", remote)
    app.router.add_get("/local", local)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"

    async def status(client: aiohttp.ClientSession, path: str) -> int:
        async with client.get(url + path) as response:
            return response.status

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as client:
        calls = [asyncio.create_task(status(client, "/remote")) for _ in range(100)]
        async with asyncio.timeout(2):
            while upstream.refused < 60:  # noqa: ASYNC110 - a counter has no event
                await asyncio.sleep(0)
        assert upstream.in_flight == 40
        assert await status(client, "/local") == 200
        assert not all(call.done() for call in calls)  # so the local answer did not wait for them
        statuses = await asyncio.gather(*calls)
    await runner.cleanup()
    assert (statuses.count(503), statuses.count(504), upstream.in_flight) == (60, 40, 0)


async def test_refusals_say_when_to_come_back_and_not_all_at_once(
    session: aiohttp.ClientSession,
) -> None:
    upstream, waits = Upstream("http://127.0.0.1:9", max_concurrent=0), set[int]()
    for _ in range(100):
        with pytest.raises(web.HTTPServiceUnavailable) as caught:
            await upstream.get(session, "/", Answer)
        waits.add(int(caught.value.headers["Retry-After"]))
    assert waits == {1, 2, 3}


async def test_the_wiring_in_the_docstring_works(
    serve: Serve, session: aiohttp.ClientSession
) -> None:
    block = (pattern.__doc__ or "").split("Wiring::\n")[1].split("Needs:")[0]
    key = web.AppKey("session", aiohttp.ClientSession)
    names: dict[str, object] = {"web": web, "Upstream": Upstream, "Answer": Answer, "SESSION": key}
    exec(textwrap.dedent(block), names)  # noqa: S102 - the pattern's own words
    wired = names["upstream"]
    assert isinstance(wired, Upstream)
    wired.base_url = await serve(sends(body(VALID)))
    app = web.Application()
    app[key] = session
    app.router.add_get("/", names["handler"])  # type: ignore[arg-type]  # made by exec
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with session.get(f"http://127.0.0.1:{runner.addresses[0][1]}/") as response:
        assert await response.json() == {"name": "a", "value": 1.0}
    await runner.cleanup()
