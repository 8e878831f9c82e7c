import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from textwrap import dedent
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from {{cookiecutter.package_name}}.patterns import request_log as pattern
from {{cookiecutter.package_name}}.patterns.request_log import json_line, request_log

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Log(asyncio.Queue[bytes]):
    async def line(self) -> Any:
        async with asyncio.timeout(5):
            return json.loads(await self.get())


@asynccontextmanager
async def serving(handler: Handler, middleware: Any, **kwargs: Any) -> AsyncIterator[str]:
    app = web.Application(middlewares=[middleware])
    app.router.add_get("/things/{id}", handler)
    runner = web.AppRunner(app, access_log=None, **kwargs)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def logged(handler: Handler, path: str = "/things/7", **options: Any) -> Any:
    log = Log()
    async with serving(handler, request_log(log.put_nowait, **options)) as url:
        async with aiohttp.ClientSession() as session, session.get(url + path) as response:
            await response.read()
        return await log.line()


async def ok(request: web.Request) -> web.Response:
    return web.Response(text="hello")


async def test_writes_route_path_status_size_and_client() -> None:
    line = await logged(ok, fields=lambda _: {"request_id": "r1"})
    assert line.pop("ts").endswith("Z")
    assert line.pop("duration_ms") >= 0
    assert line == {
        "level": "info",
        "msg": "request",
        "method": "GET",
        "route": "/things/{id}",
        "path": "/things/7",
        "status": 200,
        "bytes": 5,
        "client": "127.0.0.1",
        "request_id": "r1",
    }


async def test_never_writes_the_query() -> None:
    line = await logged(ok, "/things/7?ticket=secret")
    assert "secret" not in json.dumps(line)


async def test_logs_a_raised_http_error_with_its_status() -> None:
    async def missing(request: web.Request) -> web.Response:
        raise web.HTTPNotFound

    line = await logged(missing)
    assert (line["status"], line["level"]) == (404, "info")


async def test_logs_a_bad_gateway_as_a_warning() -> None:
    async def bad(request: web.Request) -> web.Response:
        raise web.HTTPBadGateway

    assert (await logged(bad))["level"] == "warning"


async def test_logs_an_unhandled_error_as_a_500() -> None:
    async def broken(request: web.Request) -> web.Response:
        raise RuntimeError

    line = await logged(broken)
    assert (line["status"], line["level"]) == (500, "error")


async def test_names_no_route_where_none_matched() -> None:
    line = await logged(ok, "/elsewhere")
    assert (line["route"], line["status"]) == (None, 404)


async def test_counts_all_that_a_stream_sent() -> None:
    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"12345678")
        return response

    assert (await logged(stream))["bytes"] > 8


async def test_leaves_out_quiet_requests() -> None:
    log = Log()
    quiet = request_log(log.put_nowait, quiet=lambda r: r.path == "/things/quiet")
    async with serving(ok, quiet) as url, aiohttp.ClientSession() as session:
        for path in ("/things/quiet", "/things/loud"):
            async with session.get(url + path):
                pass
        assert (await log.line())["path"] == "/things/loud"


@pytest.mark.parametrize("cancels", [True, False])
async def test_a_client_that_leaves_is_logged_without_an_error(*, cancels: bool) -> None:
    log, started = Log(), asyncio.Event()

    async def slow(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        started.set()
        while True:
            await response.write(b"x")
            await asyncio.sleep(0)

    async with serving(slow, request_log(log.put_nowait), handler_cancellation=cancels) as url:
        host, port = url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /things/7 HTTP/1.1\r\nHost: x\r\n\r\n")
        await started.wait()
        writer.transport.abort()
        line = await log.line()
    assert (line["status"], line["level"]) == (499, "info")


async def test_a_log_that_cannot_be_written_fails_no_request() -> None:
    def closed(_: bytes) -> None:
        raise BrokenPipeError

    async with (
        serving(ok, request_log(closed)) as url,
        aiohttp.ClientSession() as session,
        session.get(url + "/things/7") as response,
    ):
        assert response.status == 200


def test_a_line_end_in_a_value_stays_inside_of_its_line() -> None:
    assert json_line({"path": "/a\nlevel=error"}).count(b"\n") == 1


def test_the_wiring_in_the_docstring_works() -> None:
    app = web.Application()
    wiring = (pattern.__doc__ or "").split("Wiring::")[1].split("Needs:")[0]
    exec(dedent(wiring), {"app": app, "sys": sys, "request_log": request_log})  # noqa: S102
    assert len(app.middlewares) == 1
