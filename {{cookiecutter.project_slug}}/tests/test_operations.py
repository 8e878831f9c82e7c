import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web

from {{cookiecutter.package_name}}.app import ADMIN, DRAIN
from {{cookiecutter.package_name}}.dev import request_line

from .conftest import Service, Start

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
}


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics"])
async def test_operations_are_public(service: Service, path: str) -> None:
    async with service.session.get(path) as response:
        assert response.status == 200


async def test_probes_leave_no_line_in_the_log(service: Service) -> None:
    for path in ("/livez", "/readyz", "/nowhere"):
        async with service.session.get(path):
            pass
    assert [line["path"] for line in service.log] == ["/nowhere"]


async def test_readiness_turns_while_draining_and_liveness_stays(service: Service) -> None:
    service.app[DRAIN].draining = True
    async with service.session.get("/readyz") as response:
        assert response.status == 503
        assert (await response.json())["failed"] == ["serving"]
        assert response.headers["Connection"] == "close"
    async with service.session.get("/livez") as response:
        assert response.status == 200


async def test_metrics_name_routes_and_not_paths(service: Service) -> None:
    for path in ("/livez", "/nowhere/1", "/nowhere/2"):
        async with service.session.get(path):
            pass
    async with service.session.get("/metrics") as response:
        text = await response.text()
    assert 'http_requests_total{method="GET",route="/livez",status="200"} 1.0' in text
    assert 'http_requests_total{method="GET",route="unmatched",status="404"} 2.0' in text


@pytest.mark.parametrize(
    "name",
    [
        "http_request_duration_seconds",
        "http_requests_in_flight",
        "requests_shed_total",
        "requests_limit",
        "streams_open",
        "slow_clients_dropped_total",
        "upstream_calls_total",
        "upstream_pool_waits_total",
        "event_loop_lag_seconds",
    ],
)
async def test_every_promised_number_is_shown(service: Service, name: str) -> None:
    async with service.session.get("/livez"):
        pass
    async with service.session.get("/metrics") as response:
        assert f"# TYPE {name.removesuffix('_total')}" in await response.text()


@pytest.mark.parametrize("path", ["/livez", "/nowhere", "/api/v1/stream-tickets"])
async def test_every_answer_carries_the_headers(service: Service, path: str) -> None:
    async with service.session.get(path, headers={"X-Request-ID": "abc"}) as response:
        assert {name: response.headers[name] for name in HEADERS} == HEADERS
        assert response.headers["X-Request-ID"] == "abc"
        assert "default-src 'none'" in response.headers["Content-Security-Policy"]
        assert "Server" not in response.headers


async def test_every_error_has_one_shape(service: Service) -> None:
    async with service.session.get("/nowhere", headers={"X-Request-ID": "abc"}) as response:
        assert response.content_type == "application/problem+json"
        assert await response.json() == {
            "type": "about:blank",
            "title": "Not Found",
            "status": 404,
            "detail": "Not Found",
            "instance": "/nowhere",
            "request_id": "abc",
        }


async def test_a_wrong_method_is_told_the_right_ones(service: Service) -> None:
    async with service.session.delete("/api/v1/stream-tickets") as response:
        assert (response.status, response.headers["Allow"]) == (405, "POST")


async def test_the_log_has_the_promised_members(service: Service) -> None:
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = {"traceparent": f"00-{trace_id}-00f067aa0ba902b7-01", "X-Request-ID": "abc"}
    async with service.session.get("/nowhere?q=secret", headers=headers):
        pass
    (line,) = service.log
    assert (line["request_id"], line["trace_id"]) == ("abc", trace_id)
    assert set(line) >= {"ts", "level", "msg", "request_id", "trace_id", "method", "route"}
    assert set(line) >= {"path", "status", "duration_ms", "bytes", "client", "sub"}
    assert "secret" not in str(line)


def test_a_terminal_is_told_what_was_asked_and_what_became_of_it() -> None:
    fields = {"method": "GET", "path": "/a", "status": 200, "duration_ms": 1.5, "route": "/{x}"}
    line = request_line({"ts": "10:00:00", "level": "info", "request_id": "abc", **fields})
    assert line == b"10:00:00 info    GET /a 200  duration_ms=1.5 request_id=abc\n"


async def test_a_preflight_of_an_allowed_origin_needs_no_token(start: Start) -> None:
    service = await start(allowed_origins="https://app.test")
    headers = {"Origin": "https://app.test", "Access-Control-Request-Method": "POST"}
    async with service.session.options("/api/v1/stream-tickets", headers=headers) as response:
        assert response.status == 204
        assert response.headers["Access-Control-Allow-Origin"] == "https://app.test"


@pytest.fixture
async def admin(start: Start) -> AsyncIterator[tuple[Service, str]]:
    service = await start(admin_port=1)
    runner = web.AppRunner(service.app[ADMIN])
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield service, f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics"])
async def test_an_admin_port_takes_the_operations_away_from_the_public_one(
    admin: tuple[Service, str], path: str
) -> None:
    service, url = admin
    async with service.session.get(path) as response:
        assert response.status == 404
    async with aiohttp.ClientSession() as session, session.get(url + path) as response:
        assert response.status == 200


async def test_overload_is_refused_at_once_and_health_is_not(start: Start) -> None:
    """Raw sockets, so that all requests are there in the same pass of the loop."""
    service = await start(adaptive_concurrency=False, max_concurrency=2)
    token = service.token()
    ticket = (
        f"POST /api/v1/stream-tickets HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
        "Content-Type: application/json\r\nContent-Length: 14\r\nConnection: close\r\n\r\n"
        '{"path": "/x"}'
    )
    health = "GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    host, port = "127.0.0.1", service.url.port
    pairs = [await asyncio.open_connection(host, port) for _ in range(24)]
    for index, (_, writer) in enumerate(pairs):
        writer.write((health if index % 2 else ticket).encode())
    answers = [(await reader.read()).decode() for reader, _ in pairs]
    for _, writer in pairs:
        writer.close()
    assert all(answer.startswith("HTTP/1.1 200") for answer in answers[1::2])
    refused = [answer for answer in answers[::2] if answer.startswith("HTTP/1.1 503")]
    assert refused
    for answer in refused:
        assert "Retry-After: " in answer
        assert "X-Content-Type-Options: nosniff" in answer
        assert "X-Request-ID: " in answer
        assert "application/problem+json" in answer
