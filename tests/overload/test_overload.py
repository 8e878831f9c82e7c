"""Slow clients and broken upstreams against the generated service as a process."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from faults import FAULTS, Upstream
from running import Service, read_answer, running
from test_generated import Installed

MIB = 2**20
TIMEOUT = 0.5  # seconds the service gives its upstream
LATE = 2.0  # seconds that a busy machine may add
Check = Callable[[Service, Upstream], Awaitable[None]]

pytestmark = pytest.mark.parametrize("service", [(True, "pip")], ids=["example"], indirect=True)


@asynccontextmanager
async def both(installed: Installed) -> AsyncIterator[tuple[Service, Upstream]]:
    folder, python = installed.baked.path, installed.venv / "bin" / "python"
    async with Upstream() as upstream:
        variables = {"APP_UPSTREAM_URL": upstream.url, "APP_UPSTREAM_TIMEOUT": str(TIMEOUT)}
        async with running(folder, python, APP_BODY_TIMEOUT="60", **variables) as service:
            yield service, upstream


def run(installed: Installed, check: Check) -> None:
    """Run a check against a fresh service and its upstream."""

    async def whole() -> None:
        async with both(installed) as (service, upstream):
            async with asyncio.timeout(60):
                await check(service, upstream)

    asyncio.run(whole())


async def post(service: Service, body: str, *, length: int) -> asyncio.StreamReader:
    reader, writer = await service.connect()
    lines = "".join(f"{k}: {v}\r\n" for k, v in service.bearer.items())
    head = f"POST /api/v1/rooms/lobby/messages HTTP/1.1\r\nHost: x\r\n{lines}"
    head += f"Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    writer.write((head + body).encode())
    return reader


def test_stalled_bodies_hold_no_permit_and_the_api_answers_as_before(service: Installed) -> None:
    async def check(service: Service, _: Upstream) -> None:
        stalled = [await post(service, "{", length=100) for _ in range(500)]
        async with asyncio.timeout(10):
            while await service.metric("http_requests_in_flight") < 500:
                await asyncio.sleep(0.05)
        whole = '{"text": "hello"}'
        for _ in range(20):
            assert (await service.get("/api/v1/rates/EUR")).status == 200
            answer = await read_answer(await post(service, whole, length=len(whole)))
            assert answer.status == 201
        # More at once than would be admitted if the stalled ones counted.
        answers = await asyncio.gather(
            *(service.get("/api/v1/rooms/lobby/messages") for _ in range(50))
        )
        assert {answer.status for answer in answers} == {200}
        assert len(stalled) == 500

    run(service, check)


@pytest.mark.parametrize("currency", FAULTS)
def test_a_fault_of_the_upstream_has_its_status_in_time(service: Installed, currency: str) -> None:
    async def check(service: Service, upstream: Upstream) -> None:
        await service.get("/api/v1/rates/EUR")
        before = service.memory()
        begun = time.monotonic()
        answers = [await service.get(f"/api/v1/rates/{currency}") for _ in range(3)]
        assert time.monotonic() - begun < 3 * (TIMEOUT + 0.3) + LATE
        for answer in answers:
            assert answer.status == FAULTS[currency][1]
            assert answer.headers["content-type"].startswith("application/problem+json")
            assert answer.json()["status"] == answer.status
        assert service.memory() - before < 20 * MIB
        assert upstream.requests <= 5  # one retry is earned by ten calls

    run(service, check)


def test_hanging_calls_leave_the_other_routes_alone(service: Installed) -> None:
    async def check(service: Service, upstream: Upstream) -> None:
        hanging = [asyncio.create_task(service.get("/api/v1/rates/SLO")) for _ in range(100)]
        async with asyncio.timeout(10):
            while not upstream.requests:
                await asyncio.sleep(0)
        for path in ["/api/v1/rooms/lobby/messages", "/livez", "/metrics"] * 5:
            assert (await service.get(path)).status == 200
        statuses = {answer.status for answer in await asyncio.gather(*hanging)}
        assert statuses <= {503, 504}
        assert 504 in statuses

    run(service, check)


def test_a_dead_upstream_is_left_alone_and_asked_again(service: Installed) -> None:
    async def check(service: Service, upstream: Upstream) -> None:
        answers = [await service.get("/api/v1/rates/ERR") for _ in range(30)]
        assert {answer.status for answer in answers} == {502, 503}
        assert upstream.requests <= 10  # the breaker's threshold, and the retries among them
        refused = [answer for answer in answers if answer.status == 503]
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
        async with asyncio.timeout(20):
            while (await service.get("/api/v1/rates/EUR")).status != 200:
                await asyncio.sleep(0.2)

    run(service, check)
