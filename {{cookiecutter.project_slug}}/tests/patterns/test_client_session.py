import asyncio
import gc
import textwrap
from collections.abc import AsyncGenerator, Mapping

import aiohttp
import pytest
from aiohttp import web

from {{cookiecutter.package_name}}.patterns import client_session as pattern
from {{cookiecutter.package_name}}.patterns.client_session import (
    SESSION,
    ClientLimits,
    ClientStats,
    client_session,
)


@pytest.fixture
async def url() -> AsyncGenerator[str]:
    """An upstream that echoes a header, redirects, sets a cookie, fails, or never answers."""

    async def echo(request: web.Request) -> web.Response:
        names = ("traceparent", "Cookie")
        response = web.json_response({name: request.headers.get(name) for name in names})
        response.set_cookie("user", "1")
        return response

    async def elsewhere(request: web.Request) -> web.Response:
        raise web.HTTPFound("/")

    async def fail(request: web.Request) -> web.Response:
        raise web.HTTPServiceUnavailable

    async def hang(request: web.Request) -> web.Response:
        await asyncio.get_running_loop().create_future()
        return web.Response()

    app = web.Application()
    app.router.add_get("/", echo)
    app.router.add_get("/elsewhere", elsewhere)
    app.router.add_get("/fail", fail)
    app.router.add_get("/hang", hang)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


@pytest.fixture
def stats() -> ClientStats:
    return ClientStats()


async def test_every_timeout_is_set_and_exact(stats: ClientStats) -> None:
    app = web.Application()
    async with client_session(ClientLimits(total=5, connect=2, sock_read=3))(app):
        timeout = app[SESSION].timeout
    assert (timeout.total, timeout.connect, timeout.sock_connect, timeout.sock_read) == (5, 2, 2, 3)
    assert timeout.ceil_threshold > 1e9


async def test_the_pool_is_bounded_in_all_and_by_host() -> None:
    app = web.Application()
    async with client_session(ClientLimits(limit=7, limit_per_host=3))(app):
        connector = app[SESSION].connector
        assert connector is not None
        assert (connector.limit, connector.limit_per_host) == (7, 3)
        assert not app[SESSION].trust_env


async def test_the_session_closes_with_the_application(url: str) -> None:
    app = web.Application()
    app.cleanup_ctx.append(client_session(ClientLimits()))
    runner = web.AppRunner(app)
    await runner.setup()
    session = app[SESSION]
    async with session.get(url) as response:
        assert response.status == 200
    await runner.cleanup()
    assert session.closed
    del session, app, runner, response
    gc.collect()  # an unclosed session or connector would warn, and warnings are errors


async def test_the_session_closes_when_the_application_fails() -> None:
    app = web.Application()
    with pytest.raises(RuntimeError, match="elsewhere"):
        async with client_session(ClientLimits())(app):
            raise RuntimeError("elsewhere")
    assert app[SESSION].closed


async def test_what_headers_returns_is_sent_with_each_call(url: str) -> None:
    calls = iter("ab")

    def headers() -> Mapping[str, str]:
        return {"traceparent": next(calls)}

    app = web.Application()
    async with client_session(ClientLimits(), headers=headers)(app):
        for expected in "ab":
            async with app[SESSION].get(url) as response:
                assert (await response.json())["traceparent"] == expected


async def test_a_header_that_the_caller_set_is_kept(url: str) -> None:
    app = web.Application()
    context = client_session(ClientLimits(), headers=lambda: {"traceparent": "ours"})
    theirs = {"Traceparent": "theirs"}
    async with context(app), app[SESSION].get(url, headers=theirs) as response:
        assert (await response.json())["traceparent"] == "theirs"


async def test_no_cookie_is_kept_for_the_next_call(url: str) -> None:
    app = web.Application()
    url = url.replace("127.0.0.1", "localhost")  # no cookies are kept for a bare address
    async with client_session(ClientLimits())(app):
        for _ in range(2):
            async with app[SESSION].get(url) as response:
                assert (await response.json())["Cookie"] is None


async def test_a_redirect_is_refused(url: str, stats: ClientStats) -> None:
    app = web.Application()
    async with client_session(ClientLimits(), stats=stats)(app):
        with pytest.raises(aiohttp.TooManyRedirects):
            await app[SESSION].get(url + "/elsewhere")
    assert stats.calls == {"error": 1}


async def test_a_redirect_can_be_looked_at(url: str, stats: ClientStats) -> None:
    app = web.Application()
    context = client_session(ClientLimits(), stats=stats)
    url += "/elsewhere"
    async with context(app), app[SESSION].get(url, allow_redirects=False) as response:
        assert response.status == 302
    assert stats.calls == {"3xx": 1}


async def test_middlewares_are_used(url: str) -> None:
    seen: list[str] = []

    async def watch(
        request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        seen.append(request.method)
        return await handler(request)

    app = web.Application()
    async with client_session(ClientLimits(), middlewares=(watch,))(app), app[SESSION].get(url):
        pass
    assert seen == ["GET"]


async def test_calls_are_counted_by_outcome(
    url: str, stats: ClientStats, unused_tcp_port: int
) -> None:
    app = web.Application()
    async with client_session(ClientLimits(total=0.05), stats=stats)(app):
        for path in ("/", "/nothing", "/fail"):
            async with app[SESSION].get(url + path):
                pass
        with pytest.raises(TimeoutError):
            await app[SESSION].get(url + "/hang")
        with pytest.raises(aiohttp.ClientConnectorError):
            await app[SESSION].get(f"http://127.0.0.1:{unused_tcp_port}")
    assert stats.calls == {"2xx": 1, "4xx": 1, "5xx": 1, "timeout": 1, "error": 1}


async def test_a_cancelled_call_is_counted_as_such(url: str, stats: ClientStats) -> None:
    app = web.Application()
    async with client_session(ClientLimits(limit_per_host=1), stats=stats)(app):
        calls = [asyncio.create_task(app[SESSION].get(url + "/hang")) for _ in range(2)]
        async with asyncio.timeout(2):
            while not stats.pool_waiting:  # noqa: ASYNC110 - a counter has no event
                await asyncio.sleep(0)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
    assert (stats.calls, stats.pool_waiting) == ({"cancelled": 2}, 0)


async def test_a_wait_for_the_pool_is_visible_until_it_ends(url: str, stats: ClientStats) -> None:
    app = web.Application()
    async with client_session(ClientLimits(limit_per_host=1), stats=stats)(app):
        first = asyncio.create_task(app[SESSION].get(url + "/hang"))
        second = asyncio.create_task(app[SESSION].get(url))
        async with asyncio.timeout(2):
            while not stats.pool_waiting:  # noqa: ASYNC110 - a counter has no event
                await asyncio.sleep(0)
        assert stats.pool_waits == 1
        first.cancel()
        async with await second as response:
            assert response.status == 200
    assert (stats.pool_waits, stats.pool_waiting) == (1, 0)


async def test_a_wait_for_the_pool_is_bounded_and_leaves_the_gauge(
    url: str, stats: ClientStats
) -> None:
    app = web.Application()
    limits = ClientLimits(connect=0.02, limit_per_host=1)
    async with client_session(limits, stats=stats)(app):
        first = asyncio.create_task(app[SESSION].get(url + "/hang"))
        await asyncio.sleep(0)
        with pytest.raises(aiohttp.ConnectionTimeoutError):
            await app[SESSION].get(url)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
    assert (stats.pool_waits, stats.pool_waiting) == (1, 0)


async def test_the_wiring_in_the_docstring_works() -> None:
    app = web.Application()
    block = (pattern.__doc__ or "").split("Wiring::\n")[1].split("Needs:")[0]
    names: dict[str, object] = {"app": app, "web": web, **vars(pattern)}
    exec(textwrap.dedent(block), names)  # noqa: S102 - the pattern's own words
    runner = web.AppRunner(app)
    await runner.setup()
    assert not app[SESSION].closed
    await runner.cleanup()
    assert app[SESSION].closed
    assert callable(names["handler"])
