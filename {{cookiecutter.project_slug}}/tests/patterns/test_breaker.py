import asyncio
import textwrap
from collections.abc import AsyncGenerator, Awaitable, Callable

import aiohttp
import pytest
from aiohttp import web

from {{cookiecutter.package_name}}.patterns import breaker as pattern
from {{cookiecutter.package_name}}.patterns.breaker import CircuitBreaker, CircuitOpen


class Upstream:
    """A server that answers with `status` (0: not until `release`, -1: closes the connection)."""

    def __init__(self) -> None:
        self.status = 200
        self.release = asyncio.Event()
        self.received = 0
        self.url = ""

    async def handle(self, request: web.Request) -> web.Response:
        self.received += 1
        if self.status == 0:
            await self.release.wait()
        if self.status == -1 and request.transport is not None:
            request.transport.abort()
        return web.Response(status=self.status if self.status > 0 else 200)


@pytest.fixture
async def upstream() -> AsyncGenerator[Upstream]:
    server, app = Upstream(), web.Application()
    app.router.add_route("*", "/", server.handle)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    yield server
    await runner.cleanup()


class Clock:
    time = 1000.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> CircuitBreaker:
    return CircuitBreaker(threshold=3, cooldown=10, now=clock)


Call = Callable[[], Awaitable[int]]


@pytest.fixture
async def call(upstream: Upstream, breaker: CircuitBreaker) -> AsyncGenerator[Call]:
    """Make one call and return its status, or 0 for any error but an open circuit."""
    timeout = aiohttp.ClientTimeout(total=0.2)
    async with aiohttp.ClientSession(middlewares=(breaker,), timeout=timeout) as session:

        async def once() -> int:
            try:
                async with session.post(upstream.url) as response:
                    return response.status
            except CircuitOpen:
                raise
            except (aiohttp.ClientError, TimeoutError):
                return 0

        yield once


@pytest.mark.parametrize("status", [500, 503, 0, -1], ids=["500", "503", "hanging", "lost"])
async def test_an_outage_reaches_the_upstream_threshold_times(
    status: int, upstream: Upstream, call: Call, breaker: CircuitBreaker
) -> None:
    upstream.status = status
    for _ in range(3):
        await call()
    for _ in range(20):
        with pytest.raises(CircuitOpen):
            await call()
    assert (upstream.received, breaker.refused, breaker.open) == (3, 20, 1)


async def test_nobody_listening_opens_it(unused_tcp_port: int, breaker: CircuitBreaker) -> None:
    async with aiohttp.ClientSession(middlewares=(breaker,)) as session:
        for _ in range(3):
            with pytest.raises(aiohttp.ClientConnectorError):
                await session.get(f"http://127.0.0.1:{unused_tcp_port}/")
    assert breaker.open == 1


async def test_a_refusal_says_when_a_call_may_be_made(
    upstream: Upstream, call: Call, clock: Clock
) -> None:
    upstream.status = 500
    for _ in range(3):
        await call()
    clock.time += 4
    with pytest.raises(CircuitOpen) as caught:
        await call()
    assert isinstance(caught.value, aiohttp.ClientError)
    assert caught.value.retry_after == 6


async def test_each_cooldown_lets_one_probe_through(
    upstream: Upstream, call: Call, clock: Clock
) -> None:
    upstream.status = 500
    for _ in range(3):
        await call()
    for probes in range(1, 4):
        clock.time += 10
        assert await call() == 500
        with pytest.raises(CircuitOpen):
            await call()
        assert upstream.received == 3 + probes


async def test_a_good_probe_closes_it_with_a_clean_record(
    upstream: Upstream, call: Call, clock: Clock, breaker: CircuitBreaker
) -> None:
    upstream.status = 500
    for _ in range(3):
        await call()
    clock.time += 10
    upstream.status = 200
    assert await call() == 200
    assert breaker.open == 0
    upstream.status = 500
    assert [await call() for _ in range(3)] == [500, 500, 500]
    assert breaker.open == 1


async def test_only_one_probe_is_under_way(
    upstream: Upstream, call: Call, clock: Clock, breaker: CircuitBreaker
) -> None:
    upstream.status = 500
    for _ in range(3):
        await call()
    clock.time += 10
    upstream.status = 0
    calls = await asyncio.gather(*(call() for _ in range(5)), return_exceptions=True)
    refused = [error.retry_after for error in calls if isinstance(error, CircuitOpen)]
    assert (upstream.received, refused) == (4, [1, 1, 1, 1])


async def test_a_cancelled_probe_leaves_its_place_to_the_next(
    upstream: Upstream, call: Call, clock: Clock, breaker: CircuitBreaker
) -> None:
    upstream.status = 500
    for _ in range(3):
        await call()
    clock.time += 10
    upstream.status = 0
    probe = asyncio.ensure_future(call())
    async with asyncio.timeout(2):
        while upstream.received < 4:  # noqa: ASYNC110 - a counter has no event
            await asyncio.sleep(0)
    probe.cancel()
    with pytest.raises(asyncio.CancelledError):
        await probe
    upstream.status = 200
    assert await call() == 200
    assert breaker.open == 0


async def test_a_call_from_before_the_opening_changes_nothing(
    upstream: Upstream, call: Call, clock: Clock, breaker: CircuitBreaker
) -> None:
    upstream.status = 0
    async with aiohttp.ClientSession(middlewares=(breaker,)) as session, asyncio.timeout(5):
        late = asyncio.ensure_future(session.post(upstream.url))
        while upstream.received < 1:  # noqa: ASYNC110 - a counter has no event
            await asyncio.sleep(0)
        upstream.status = 500
        for _ in range(3):
            await call()
        clock.time += 9
        upstream.release.set()
        assert (await late).status == 500
    clock.time += 1
    upstream.status = 200
    assert await call() == 200


async def test_answers_below_500_are_good(
    upstream: Upstream, call: Call, breaker: CircuitBreaker
) -> None:
    upstream.status = 404
    for _ in range(10):
        assert await call() == 404
    assert breaker.open == 0


async def test_failures_that_successes_outweigh_do_not_open_it(
    upstream: Upstream, call: Call, breaker: CircuitBreaker
) -> None:
    for status in [500, 500, 200] + [500, 200] * 10:
        upstream.status = status
        assert await call() == status
    upstream.status = 500
    await call()
    await call()
    assert breaker.open == 1


async def test_origins_are_apart_and_only_the_last_are_remembered(
    upstream: Upstream, clock: Clock, unused_tcp_port: int
) -> None:
    breaker = CircuitBreaker(threshold=1, origins=2, now=clock)
    dead = f"http://127.0.0.1:{unused_tcp_port}/"
    async with aiohttp.ClientSession(middlewares=(breaker,)) as session:
        with pytest.raises(aiohttp.ClientConnectorError):
            await session.get(dead)
        async with session.get(upstream.url) as response:
            assert response.status == 200
        with pytest.raises(CircuitOpen):
            await session.get(dead)
        others = [dead.replace("127.0.0.1", f"127.0.0.{host}") for host in (2, 3, 4)]
        with pytest.raises(aiohttp.ClientConnectorError):
            await session.get(others[0])
        with pytest.raises(CircuitOpen):  # used since, so it was not the one forgotten
            await session.get(dead)
        for other in others[1:]:
            with pytest.raises(aiohttp.ClientConnectorError):
                await session.get(other)
        with pytest.raises(aiohttp.ClientConnectorError):
            await session.get(dead)


async def test_the_wiring_in_the_docstring_works(upstream: Upstream) -> None:
    block = (pattern.__doc__ or "").split("Wiring::\n")[1].split("Needs:")[0]
    names: dict[str, object] = {"aiohttp": aiohttp, "CircuitBreaker": CircuitBreaker}
    exec(textwrap.dedent(block), names)  # noqa: S102 - the pattern's own words
    session = names["session"]
    assert isinstance(session, aiohttp.ClientSession)
    async with session, session.get(upstream.url) as response:
        assert response.status == 200
