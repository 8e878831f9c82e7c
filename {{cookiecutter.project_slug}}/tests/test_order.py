import asyncio
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from {{cookiecutter.package_name}}.__main__ import before_routing
from {{cookiecutter.package_name}}.app import DRAIN, create_app
from {{cookiecutter.package_name}}.patterns.jwt_auth import public
from {{cookiecutter.package_name}}.patterns.security_headers import API_HEADERS

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


Ask = Callable[[str], Awaitable[tuple[int, str]]]


@asynccontextmanager
async def full_service() -> AsyncGenerator[tuple[web.AppRunner, Ask]]:
    """One request is all that it takes on, and that is there; `ask` gets a status and a head."""
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
    first, second = [await asyncio.open_connection(*runner.addresses[0]) for _ in range(2)]

    async def ask(path: str) -> tuple[int, str]:
        second[1].write(f"GET {path} HTTP/1.1\r\nHost: x\r\nX-Request-ID: mine\r\n\r\n".encode())
        head = (await second[0].readuntil(b"\r\n\r\n")).decode()
        await second[0].readexactly(int(head.partition("Content-Length: ")[2].split()[0]))
        return int(head.split()[1]), head

    try:
        first[1].write(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(10):
            await begun.wait()
            yield runner, ask
            done.set()
            assert (await first[0].readline()).split()[1] == b"200"
    finally:
        for _, writer in (first, second):
            writer.close()
        await runner.cleanup()


async def test_what_is_too_much_is_refused_before_it_is_parsed() -> None:
    async with full_service() as (runner, ask):
        for _ in range(2):
            status, head = await ask("/slow")
            assert status == 503
        assert runner.server is not None
        assert runner.server.requests_count == 1
        for name, value in {**API_HEADERS, "X-Request-ID": "mine"}.items():
            assert f"{name}: {value}\r\n" in head


async def test_health_is_answered_however_full_the_service_is() -> None:
    async with full_service() as (_, ask):
        assert (await ask("/slow"))[0] == 503
        assert (await ask("/livez"))[0] == 200


async def test_who_is_too_slow_is_cut_off() -> None:
    async with full_service() as (runner, _):
        assert runner.server is not None
        found = [each.transport for each in runner.server.connections if each.transport is not None]
        sockets = [transport.get_extra_info("socket") for transport in found]
        bounds = [each.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) for each in sockets]
    assert bounds == [30_000, 30_000]


async def test_a_refusal_while_draining_ends_the_connection() -> None:
    async with full_service() as (runner, ask):
        runner.app[DRAIN].draining = True
        status, head = await ask("/slow")
    assert status == 503
    assert "Connection: close\r\n" in head
