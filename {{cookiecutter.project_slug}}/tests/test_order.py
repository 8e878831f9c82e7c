import asyncio
from typing import Any

from aiohttp import web

from {{cookiecutter.package_name}}.__main__ import before_routing
from {{cookiecutter.package_name}}.app import create_app
from {{cookiecutter.package_name}}.patterns.jwt_auth import public

from .conftest import make_settings


def name(function: Any) -> str:
    return f"{function.__module__.rsplit('.', 1)[-1]}.{function.__name__}"


def test_the_middlewares_are_in_their_order() -> None:
    app = create_app(make_settings(), lambda _: None)
    assert [name(middleware) for middleware in app.middlewares] == [
        "backpressure.guard",
        "drain.count",
        "request_id.identify",
        "request_log.log",
        "metrics.measure",
        "errors.problems",
        "cors.preflight",
        "jwt_auth.auth",
    ]


def test_the_session_is_there_before_what_needs_it() -> None:
    settings = make_settings(jwt_jwks_url="https://id.test/jwks")
    contexts = create_app(settings, lambda _: None).cleanup_ctx
    assert [name(context).split(".")[0] for context in contexts][:3] == [
        "loop_watch",
        "client_session",
        "jwks",
    ]


async def test_what_is_too_much_is_refused_before_it_is_parsed() -> None:
    begun, done = asyncio.Event(), asyncio.Event()

    @public
    async def slow(request: web.Request) -> web.Response:
        begun.set()
        await done.wait()
        return web.Response()

    app = create_app(make_settings(adaptive_concurrency=False, max_concurrency=1), lambda _: None)
    app.router.add_get("/slow", slow)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    before_routing(runner)
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        first, second = [await asyncio.open_connection(*runner.addresses[0]) for _ in range(2)]
        first[1].write(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        await begun.wait()
        second[1].write(b"GET /slow HTTP/1.1\r\nHost: x\r\nX-Request-ID: mine\r\n\r\n")
        head = await second[0].readuntil(b"\r\n\r\n")
        assert head.split()[1] == b"503"
        assert b"X-Request-ID: mine\r\n" in head
        assert runner.server is not None
        assert runner.server.requests_count == 1
        done.set()
        assert (await first[0].readline()).split()[1] == b"200"
    finally:
        for _, writer in (first, second):
            writer.close()
        await runner.cleanup()
