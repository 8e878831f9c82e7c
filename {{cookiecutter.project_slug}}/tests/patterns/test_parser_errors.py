import asyncio
import json
import textwrap
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from {{cookiecutter.package_name}}.patterns import parser_errors as pattern
from {{cookiecutter.package_name}}.patterns.parser_errors import parser_problems

Answer = tuple[str, dict[str, str], bytes]
GET = b"GET / HTTP/1.1\r\nHost: x\r\n"
MALFORMED = [
    GET + b"Bad Header: secret\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"secret\r\n\r\n",
    GET + b"X-Long: " + b"secret" * 2000 + b"\r\n\r\n",
    GET + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
]


@asynccontextmanager
async def asking() -> AsyncGenerator[Callable[[bytes], Awaitable[Answer]]]:
    async def fine(request: web.Request) -> web.Response:
        return web.Response(text="fine")

    app = web.Application()
    app.router.add_get("/", fine)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    assert runner.server is not None
    runner.server.request_factory = parser_problems(runner.server.request_factory, {"X-Own": "1"})
    await web.TCPSite(runner, "127.0.0.1", 0).start()

    async def ask(data: bytes) -> Answer:
        reader, writer = await asyncio.open_connection(*runner.addresses[0][:2])
        writer.write(data)
        async with asyncio.timeout(5):
            head, body = (await reader.read()).split(b"\r\n\r\n", 1)
        writer.close()
        first, *lines = head.decode().split("\r\n")
        return first, dict(line.split(": ", 1) for line in lines), body

    try:
        yield ask
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("data", MALFORMED, ids=["header", "no host", "no http", "long", "framing"])
async def test_what_is_not_http_gets_a_problem_document_without_echo_or_version(
    data: bytes,
) -> None:
    async with asking() as ask:
        first, headers, body = await ask(data)
    assert first == "HTTP/1.1 400 Bad Request"
    assert headers == {
        "X-Own": "1",
        "Content-Type": "application/problem+json",
        "Connection": "close",
        "X-Request-ID": json.loads(body)["request_id"],
        "Content-Length": str(len(body)),
    }
    assert json.loads(body)["status"] == 400
    assert b"secret" not in body


async def test_a_valid_request_is_answered_as_ever() -> None:
    async with asking() as ask:
        first, _, body = await ask(GET + b"Connection: close\r\n\r\n")
    assert (first, body) == ("HTTP/1.1 200 OK", b"fine")


async def test_the_wiring_of_the_docstring_works() -> None:
    runner = web.AppRunner(web.Application())
    wiring = textwrap.dedent((pattern.__doc__ or "").split("Wiring::")[1].split("Needs:")[0])
    names: dict[str, object] = {**vars(pattern), "runner": runner}
    body = textwrap.indent(wiring, "    ")
    exec(f"async def wire():{body}    return server\n", names)  # noqa: S102
    wire = names["wire"]
    assert callable(wire)
    assert (await wire()).request_factory.__module__ == pattern.__name__
    await runner.cleanup()
