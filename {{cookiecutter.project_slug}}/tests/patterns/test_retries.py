import asyncio
import random
import textwrap
from collections.abc import AsyncGenerator

import aiohttp
import pytest
from aiohttp import web

from {{cookiecutter.package_name}}.patterns import retries as pattern
from {{cookiecutter.package_name}}.patterns.retries import Retries


class Upstream:
    """A server that answers each request by the next of `script`, and by 200 after its end.

    A number is a status, a text a 503 with that Retry-After; None closes the connection.
    """

    def __init__(self) -> None:
        self.script: list[int | str | None] = []
        self.always: int | str | None = 200
        self.received = 0
        self.url = ""

    async def handle(self, request: web.Request) -> web.Response:
        self.received += 1
        answer = self.script.pop(0) if self.script else self.always
        if answer is None and request.transport is not None:
            request.transport.abort()
        if isinstance(answer, str):
            return web.Response(status=503, headers={"Retry-After": answer})
        size = 2_000_000 if answer == 504 else 100  # more than the client reads ahead
        return web.Response(status=answer or 200, body=b"x" * size)


@pytest.fixture
async def upstream() -> AsyncGenerator[Upstream]:
    server, app = Upstream(), web.Application()
    app.router.add_route("*", "/", server.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    yield server
    await runner.cleanup()


@pytest.fixture
def retries() -> Retries:
    return Retries(ratio=1.0, pause=0.0)


@pytest.fixture
async def session(retries: Retries) -> AsyncGenerator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(limit=1)  # an answer that is not released blocks the next
    timeout = aiohttp.ClientTimeout(total=2)
    async with aiohttp.ClientSession(
        connector=connector, timeout=timeout, middlewares=(retries,)
    ) as opened:
        yield opened


@pytest.mark.parametrize("answer", [502, 503, 504, None, "0", "-1", "nan"])
async def test_a_failed_call_is_repeated_once(
    answer: int | str | None, upstream: Upstream, session: aiohttp.ClientSession, retries: Retries
) -> None:
    upstream.script = [answer]
    async with session.get(upstream.url) as response:
        assert response.status == 200
    assert (upstream.received, retries.retried) == (2, 1)


async def test_the_second_failure_is_the_answer(
    upstream: Upstream, session: aiohttp.ClientSession
) -> None:
    upstream.script = [503, 502]
    async with session.get(upstream.url) as response:
        assert response.status == 502
    assert upstream.received == 2


@pytest.mark.parametrize("fault", [503, None])
async def test_a_post_is_never_repeated(
    fault: int | None, upstream: Upstream, session: aiohttp.ClientSession
) -> None:
    upstream.always = fault
    if fault:
        async with session.post(upstream.url) as response:
            assert response.status == 503
    else:
        with pytest.raises(aiohttp.ClientConnectionError):
            await session.post(upstream.url)
    assert upstream.received == 1


@pytest.mark.parametrize("status", [200, 404, 429, 500])
async def test_other_answers_are_not_repeated(
    status: int, upstream: Upstream, session: aiohttp.ClientSession, retries: Retries
) -> None:
    upstream.always = status
    async with session.get(upstream.url) as response:
        assert response.status == status
        assert await response.read() == b"x" * 100
    assert (upstream.received, retries.denied) == (1, 0)


@pytest.mark.parametrize("seconds", ["2", "inf", "9" * 5000, "Thu, 01 Jan 2026 00:00:00 GMT"])
async def test_a_long_retry_after_ends_the_retrying(
    seconds: str, upstream: Upstream, session: aiohttp.ClientSession
) -> None:
    upstream.script = [seconds]
    async with session.get(upstream.url) as response:
        assert response.status == 503
    assert upstream.received == 1


async def test_a_short_retry_after_is_waited_for(
    upstream: Upstream, session: aiohttp.ClientSession
) -> None:
    upstream.script = ["0.05"]
    started = asyncio.get_running_loop().time()
    async with session.get(upstream.url) as response:
        assert response.status == 200
    assert asyncio.get_running_loop().time() - started >= 0.05


async def test_the_pause_differs_from_call_to_call(
    upstream: Upstream, session: aiohttp.ClientSession, retries: Retries
) -> None:
    random.seed(0)  # 42, 38, 21 and 13 ms
    retries.pause = 0.05
    pauses: list[float] = []
    for _ in range(4):
        upstream.script = [503]
        started = asyncio.get_running_loop().time()
        async with session.get(upstream.url):
            pauses.append(asyncio.get_running_loop().time() - started)
    assert max(pauses) - min(pauses) > 0.01


@pytest.mark.parametrize("fault", [503, None])
async def test_a_total_outage_gets_at_most_a_tenth_more(
    fault: int | None, upstream: Upstream, session: aiohttp.ClientSession, retries: Retries
) -> None:
    upstream.always, retries.ratio = fault, 0.1
    for _ in range(100):
        try:
            async with session.get(upstream.url) as response:
                assert response.status == 503
        except aiohttp.ClientConnectionError:
            assert fault is None
    assert 105 <= upstream.received <= 110
    assert upstream.received == 100 + retries.retried
    assert retries.denied == 100 - retries.retried


async def test_what_good_times_earn_is_bounded(
    upstream: Upstream, session: aiohttp.ClientSession, retries: Retries
) -> None:
    retries.burst = 2
    for _ in range(10):
        async with session.get(upstream.url):
            pass
    retries.ratio, upstream.always = 0, 503
    for _ in range(10):
        async with session.get(upstream.url):
            pass
    assert retries.retried == 2


async def test_a_call_that_was_not_made_earns_nothing(upstream: Upstream) -> None:
    retries, refusing = Retries(pause=0), True

    async def breaker(
        request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        if refusing:
            raise aiohttp.ClientError
        return await handler(request)

    async with aiohttp.ClientSession(middlewares=(retries, breaker)) as session:
        for _ in range(20):
            with pytest.raises(aiohttp.ClientError):
                await session.get(upstream.url)
        refusing, upstream.always = False, 503
        async with session.get(upstream.url) as response:
            assert response.status == 503
    assert (upstream.received, retries.denied) == (1, 1)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_aiohttp_does_not_repeat_by_itself(
    method: str, upstream: Upstream, session: aiohttp.ClientSession, retries: Retries
) -> None:
    upstream.always, retries.ratio = None, 0
    with pytest.raises(aiohttp.ClientConnectionError):
        await session.request(method, upstream.url)
    assert upstream.received == 1


async def test_refused_connections_are_counted_and_keep_their_type(
    unused_tcp_port: int, session: aiohttp.ClientSession, retries: Retries
) -> None:
    with pytest.raises(aiohttp.ClientConnectorError):
        await session.get(f"http://127.0.0.1:{unused_tcp_port}/")
    assert retries.retried == 1


async def test_a_timeout_is_not_repeated(retries: Retries) -> None:
    asked: list[str] = []

    async def slow(
        request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        asked.append(request.method)
        raise aiohttp.SocketTimeoutError

    async with aiohttp.ClientSession(middlewares=(retries, slow)) as session:
        with pytest.raises(TimeoutError):
            await session.get("http://127.0.0.1:9/")
    assert (asked, retries.retried) == (["GET"], 0)


async def test_the_total_timeout_covers_the_pause(
    upstream: Upstream, session: aiohttp.ClientSession
) -> None:
    upstream.script = ["1"]
    with pytest.raises(TimeoutError):
        await session.get(upstream.url, timeout=aiohttp.ClientTimeout(total=0.05))
    assert upstream.received == 1


async def test_the_wiring_in_the_docstring_works(upstream: Upstream) -> None:
    block = (pattern.__doc__ or "").split("Wiring::\n")[1].split("Needs:")[0]
    names: dict[str, object] = {"aiohttp": aiohttp, "Retries": Retries}
    exec(textwrap.dedent(block), names)  # noqa: S102 - the pattern's own words
    session = names["session"]
    assert isinstance(session, aiohttp.ClientSession)
    async with session, session.get(upstream.url) as response:
        assert response.status == 200
