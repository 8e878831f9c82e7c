import asyncio
import textwrap
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry

from {{cookiecutter.package_name}}.patterns import metrics as pattern
from {{cookiecutter.package_name}}.patterns.metrics import (
    metrics,
    metrics_page,
    show_number,
)


class Service:
    def __init__(self, client: aiohttp.ClientSession, registry: CollectorRegistry) -> None:
        self.client, self.registry = client, registry
        self.begun = asyncio.Event()

    async def get(self, path: str, method: str = "GET") -> int:
        async with self.client.request(method, path) as response:
            await response.read()
            return response.status

    def total(self, method: str, route: str, status: int) -> float | None:
        labels = {"method": method, "route": route, "status": str(status)}
        return self.registry.get_sample_value("http_requests_total", labels)

    def timed(self, route: str, status: int, suffix: str = "count", **more: str) -> float | None:
        labels = {"method": "GET", "route": route, "status": str(status), **more}
        name = f"http_request_duration_seconds_{suffix}"
        return self.registry.get_sample_value(name, labels)


@asynccontextmanager
async def service(seconds: float = 0.0) -> AsyncGenerator[Service]:
    registry, times = CollectorRegistry(), [0.0]

    def now() -> float:
        times[0] += seconds
        return times[0]

    async def item(request: web.Request) -> web.Response:
        return web.Response(text="item")

    async def failing(request: web.Request) -> web.Response:
        match request.query_string:
            case "conflict":
                raise web.HTTPConflict
            case "reset":
                raise ConnectionResetError("the client left")
            case "slow":
                raise TimeoutError
        raise ValueError("broken")

    async def endless(request: web.Request) -> web.Response:
        running.begun.set()
        await asyncio.Event().wait()
        raise NotImplementedError

    async def events(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"x")
        return response

    app = web.Application(middlewares=[metrics(registry, now=now)])
    app.router.add_get("/items/{id}", item)
    app.router.add_get("/failing", failing)
    app.router.add_get("/endless", endless)
    app.router.add_get("/events", events)
    app.router.add_get("/metrics", metrics_page(registry))
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.01)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    try:
        async with aiohttp.ClientSession(f"http://{host}:{port}") as client:
            running = Service(client, registry)
            yield running
    finally:
        await runner.cleanup()


async def test_requests_are_counted_by_their_route_and_not_by_their_path() -> None:
    async with service() as running:
        await running.get("/items/1")
        await running.get("/items/2")
        assert running.total("GET", "/items/{id}", 200) == 2


@pytest.mark.parametrize(
    ("query", "status"), [("conflict", 409), ("broken", 500), ("slow", 504), ("reset", 499)]
)
async def test_what_a_handler_raises_is_counted_as_what_becomes_of_it(
    query: str, status: int
) -> None:
    async with service() as running:
        await running.get(f"/failing?{query}")
        assert running.total("GET", "/failing", status) == 1


async def test_unknown_paths_and_methods_make_no_series_of_their_own() -> None:
    async with service() as running:
        for path in ("/a", "/b", "/c"):
            await running.get(path, "LINK")
        assert await running.get("/items/1", "DELETE") == 405
        assert running.total("other", "unmatched", 404) == 3
        assert running.total("DELETE", "unmatched", 405) == 1


async def test_a_client_that_leaves_is_counted_as_such() -> None:
    async with service() as running:
        task = asyncio.create_task(running.get("/endless"))
        await running.begun.wait()
        assert running.registry.get_sample_value("http_requests_in_flight") == 1
        task.cancel()
        async with asyncio.timeout(5):
            while running.total("GET", "/endless", 499) != 1:  # noqa: ASYNC110  # no event
                await asyncio.sleep(0)
        assert running.registry.get_sample_value("http_requests_in_flight") == 0


async def test_latency_falls_into_cumulative_buckets() -> None:
    async with service(seconds=0.25) as running:  # a bound is part of its bucket
        await running.get("/items/1")
        buckets = [
            running.timed("/items/{id}", 200, "bucket", le=le) for le in ("0.1", "0.25", "+Inf")
        ]
        assert buckets == [0, 1, 1]
        assert running.timed("/items/{id}", 200, "sum") == pytest.approx(0.25)


async def test_a_stream_is_counted_and_not_timed() -> None:
    async with service() as running:
        await running.get("/events")
        assert running.total("GET", "/events", 200) == 1
        assert running.timed("/events", 200) == 0


async def test_numbers_of_other_parts_are_read_at_each_scrape() -> None:
    registry, open_streams = CollectorRegistry(), [1]
    show_number(registry, "open_streams", "Open streams.", lambda: open_streams[0])
    assert registry.get_sample_value("open_streams") == 1
    open_streams[0] = 5
    assert registry.get_sample_value("open_streams") == 5


async def test_a_mapping_of_numbers_is_a_series_a_key() -> None:
    registry = CollectorRegistry()
    show_number(registry, "shed_total", "Refused.", lambda: {"a": 1, "b": 2}, "reason")
    assert registry.get_sample_value("shed_total", {"reason": "b"}) == 2


async def test_the_page_is_in_the_text_format_of_prometheus() -> None:
    async with service() as running:
        await running.get("/items/1")
        async with running.client.get("/metrics") as response:
            text = await response.text()
            assert response.content_type == "text/plain"
    assert 'http_requests_total{method="GET",route="/items/{id}",status="200"} 1.0' in text


async def test_the_wiring_of_the_docstring_works() -> None:
    app = web.Application()
    wiring = textwrap.dedent((pattern.__doc__ or "").split("Wiring::")[1].split("Needs:")[0])
    exec(wiring, {**vars(pattern), "app": app})  # noqa: S102
    assert len(app.router.resources()) == 1
