import asyncio
import textwrap
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web
from aiohttp.typedefs import Handler

from {{cookiecutter.package_name}}.patterns import backpressure as pattern
from {{cookiecutter.package_name}}.patterns.backpressure import (
    FixedLimit,
    Permits,
    backpressure,
    mark_of,
    never_shed,
    stream,
)


class Gate:
    """Handlers that are known to have begun, and that end when they are told to."""

    def __init__(self) -> None:
        self.begun = asyncio.Semaphore(0)
        self.open = asyncio.Event()

    async def slow(self, request: web.Request) -> web.Response:
        self.begun.release()
        await self.open.wait()
        return web.Response(text="done")

    @stream
    async def events(self, request: web.Request) -> web.Response:
        return await self.slow(request)

    @never_shed
    async def livez(self, request: web.Request) -> web.Response:
        return web.Response(text="alive")


@asynccontextmanager
async def serve(
    app: web.Application,
    *,
    handler_cancellation: bool = False,
    prepare: Callable[[web.AppRunner], None] = lambda runner: None,
) -> AsyncGenerator[aiohttp.ClientSession]:
    runner = web.AppRunner(app, shutdown_timeout=0.01, handler_cancellation=handler_cancellation)
    await runner.setup()
    prepare(runner)
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    try:
        async with aiohttp.ClientSession(f"http://{host}:{port}") as client:
            yield client
    finally:
        await runner.cleanup()


@asynccontextmanager
async def gated(permits: Permits) -> AsyncGenerator[tuple[aiohttp.ClientSession, Gate]]:
    app, gate = web.Application(middlewares=[backpressure(permits)]), Gate()
    app.router.add_get("/slow", gate.slow)
    app.router.add_get("/events", gate.events)
    app.router.add_get("/livez", gate.livez)
    async with serve(app) as client:
        yield client, gate


async def status(client: aiohttp.ClientSession, path: str) -> int:
    async with client.get(path) as response:
        return response.status


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  # numbers have no event
            await asyncio.sleep(0)


def all_free(permits: Permits) -> bool:
    return not (permits.in_flight or permits.streams or permits.waiting)


async def test_a_request_above_the_limit_is_refused_at_once() -> None:
    permits = Permits(FixedLimit(1))
    async with gated(permits) as (client, gate):
        first = asyncio.create_task(status(client, "/slow"))
        await gate.begun.acquire()
        assert await status(client, "/slow") == 503
        gate.open.set()
        assert await first == 200
    assert permits.shed["requests"] == 1


async def test_a_refusal_says_when_to_come_back() -> None:
    async with gated(Permits(FixedLimit(0))) as (client, _):
        seconds: set[int] = set()
        for _ in range(60):
            async with client.get("/slow") as response:
                seconds.add(int(response.headers["Retry-After"]))
        assert seconds <= {1, 2, 3, 4, 5}
        assert len(seconds) >= 3


async def test_a_health_check_is_never_refused() -> None:
    async with gated(Permits(FixedLimit(0))) as (client, _):
        assert await status(client, "/livez") == 200


async def test_a_stream_takes_no_permit_of_requests() -> None:
    permits = Permits(FixedLimit(1))
    async with gated(permits) as (client, gate):
        streams = [asyncio.create_task(status(client, "/events")) for _ in range(3)]
        for _ in streams:
            await gate.begun.acquire()
        assert (permits.streams, permits.in_flight) == (3, 0)
        gate.open.set()
        assert await status(client, "/slow") == 200
        assert await asyncio.gather(*streams) == [200, 200, 200]


async def test_streams_have_a_limit_of_their_own() -> None:
    permits = Permits(FixedLimit(10), max_streams=1)
    async with gated(permits) as (client, gate):
        first = asyncio.create_task(status(client, "/events"))
        await gate.begun.acquire()
        assert await status(client, "/events") == 503
        gate.open.set()
        assert await first == 200
        assert await status(client, "/slow") == 200
    assert permits.shed == {"requests": 0, "streams": 1, "bodies": 0, "gone": 0}


async def test_a_mark_on_a_view_counts_and_that_of_its_method_wins() -> None:
    @stream
    class View(web.View):
        async def get(self) -> web.Response:
            return web.Response()

        @never_shed
        async def post(self) -> web.Response:
            return web.Response()

    class Plain(web.View):
        async def get(self) -> web.Response:
            return web.Response()

    permits = Permits(FixedLimit(0), max_streams=0)
    app = web.Application(middlewares=[backpressure(permits)])
    app.router.add_view("/view", View)
    app.router.add_view("/plain", Plain)
    async with serve(app) as client:
        assert await status(client, "/view") == 503
        async with client.post("/view") as response:
            assert response.status == 200
        assert await status(client, "/plain") == 503
    assert (permits.shed["streams"], permits.shed["requests"]) == (1, 1)


async def test_handlers_that_never_await_are_counted_until_the_pass_ends() -> None:
    permits = Permits(FixedLimit(2))

    @web.middleware
    async def thrice(request: web.Request, handler: Handler) -> web.StreamResponse:
        await handler(request)
        await handler(request)
        return await handler(request)

    async def instant(request: web.Request) -> web.Response:
        return web.Response()

    app = web.Application(middlewares=[thrice, backpressure(permits)])
    app.router.add_get("/", instant)
    async with serve(app) as client:
        assert await status(client, "/") == 503
        await until(lambda: all_free(permits))
        assert await status(client, "/") == 503
    assert permits.shed["requests"] == 2


class Short(web.StreamResponse):
    """A refusal that needs no callbacks."""


def test_marks_are_of_handlers_views_and_methods() -> None:
    class View(web.View):
        @never_shed
        async def get(self) -> web.Response:
            return web.Response()

    gate = Gate()
    assert mark_of(gate.livez, "GET") == mark_of(View, "GET") == "health"
    assert mark_of(gate.events, "GET") == mark_of(stream(View), "POST") == "stream"
    assert mark_of(gate.slow, "GET") is None


async def test_a_service_is_crowded_from_half_of_its_limit_on() -> None:
    permits = Permits(FixedLimit(4))
    crowds: list[bool] = []
    for permits.in_flight in range(5):
        crowds.append(permits.crowded())
    assert crowds == [False, False, True, True, True]


async def test_what_is_promised_counts_and_a_refusal_is_counted() -> None:
    permits = Permits(FixedLimit(4), in_flight=2)
    assert permits.admits(1)
    assert not permits.admits(2)
    assert permits.shed["requests"] == 1


async def test_permits_come_back_after_errors_and_cancellations() -> None:
    permits = Permits(FixedLimit(100))
    guard = backpressure(permits)
    gate = Gate()
    app = web.Application(middlewares=[guard])

    async def failing(request: web.Request) -> web.Response:
        raise web.HTTPConflict if "http" in request.query else ValueError("broken")

    app.router.add_get("/failing", failing)
    app.router.add_get("/slow", gate.slow)
    app.router.add_get("/events", gate.events)
    async with serve(app, handler_cancellation=True) as client:
        assert await status(client, "/failing") == 500
        assert await status(client, "/failing?http") == 409
        assert await status(client, "/nowhere") == 404
        tasks = [asyncio.create_task(status(client, path)) for path in ("/slow", "/events")]
        for _ in tasks:
            await gate.begun.acquire()
        assert (permits.in_flight, permits.streams) == (1, 1)
        for task in tasks:
            task.cancel()  # the client leaves, which cancels the handlers
        await until(lambda: all_free(permits))


async def test_a_request_whose_client_has_left_is_not_begun() -> None:
    permits, gate = Permits(FixedLimit(10)), Gate()

    @web.middleware
    async def too_late(request: web.Request, handler: Handler) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.close()
        await until(lambda: request.transport is None)
        return await handler(request)

    app = web.Application(middlewares=[too_late, backpressure(permits)])
    app.router.add_get("/slow", gate.slow)
    async with serve(app) as client:
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await status(client, "/slow")
        await until(lambda: permits.shed["gone"] > 0)
        assert gate.begun.locked()
        assert permits.in_flight == 0


@asynccontextmanager
async def lending(permits: Permits) -> AsyncGenerator[tuple[aiohttp.ClientSession, Gate]]:
    app, gate = web.Application(middlewares=[backpressure(permits)]), Gate()

    async def upload(request: web.Request) -> web.Response:
        with permits.lent(request):
            return await gate.slow(request)

    app.router.add_get("/upload", upload)
    app.router.add_get("/slow", gate.slow)
    async with serve(app) as client:
        yield client, gate


async def test_a_lent_permit_serves_somebody_else() -> None:
    permits = Permits(FixedLimit(1))
    async with lending(permits) as (client, gate):
        upload = asyncio.create_task(status(client, "/upload"))
        await gate.begun.acquire()
        await until(lambda: permits.in_flight == 0)
        assert permits.waiting == 1
        gate.open.set()
        assert await status(client, "/slow") == 200
        assert await upload == 200
        await until(lambda: all_free(permits))


async def test_who_lent_a_permit_is_refused_when_none_is_left_afterwards() -> None:
    permits = Permits(FixedLimit(1))
    async with lending(permits) as (client, gate):
        upload = asyncio.create_task(status(client, "/upload"))
        await gate.begun.acquire()
        await until(lambda: permits.in_flight == 0)
        permits.in_flight = 1  # somebody else has it
        gate.open.set()
        assert await upload == 503
        await until(lambda: permits.in_flight == 1)
        assert permits.shed["requests"] == 1


async def test_only_so_many_requests_may_lend_their_permit() -> None:
    permits = Permits(FixedLimit(10), max_waiting=1)
    async with lending(permits) as (client, gate):
        upload = asyncio.create_task(status(client, "/upload"))
        await gate.begun.acquire()
        assert await status(client, "/upload") == 503
        gate.open.set()
        assert await upload == 200
        await until(lambda: all_free(permits))
    assert permits.shed["bodies"] == 1


async def test_a_stream_has_no_permit_to_lend() -> None:
    permits = Permits(FixedLimit(1))
    app = web.Application(middlewares=[backpressure(permits)])

    @stream
    async def upload(request: web.Request) -> web.Response:
        with permits.lent(request):
            assert (permits.waiting, permits.in_flight) == (0, 0)
        return web.Response()

    app.router.add_get("/", upload)
    async with serve(app) as client:
        assert await status(client, "/") == 200


async def test_refusals_of_a_second_share_one_line_in_the_log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pattern, "REPORT_EVERY", 0.01)
    permits = Permits(FixedLimit(7))
    for _ in range(3):
        permits.refused("requests")
    await until(lambda: bool(caplog.records))
    assert [r.getMessage() for r in caplog.records] == ["refused 3 requests in a second (limit 7)"]


async def test_the_wiring_of_the_docstring_works() -> None:
    app = web.Application()
    wiring = textwrap.dedent((pattern.__doc__ or "").split("Wiring::")[1].split("Needs:")[0])
    exec(wiring, {**vars(pattern), "app": app})  # noqa: S102
    app.router.add_get("/", Gate().livez)
    async with serve(app) as client:
        assert await status(client, "/") == 200
