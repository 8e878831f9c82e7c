"""Slow clients and broken upstreams against the generated service as a process."""

import asyncio
import hashlib
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from conftest import ROOT, Bake
from faults import FAULTS, Upstream
from running import Service, read_answer, running
from test_generated import path_with

MIB = 2**20
TIMEOUT = 0.5  # seconds the service gives its upstream
LATE = 5.0  # seconds that a busy machine may add
Check = Callable[[Service, Upstream], Awaitable[None]]


@pytest.fixture(scope="module")
def installed(bake: Bake, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folder of a generated service, and the interpreter of its environment."""
    baked = bake(fresh=True)
    lock = hashlib.sha256(baked.read("requirements/run.txt").encode()).hexdigest()[:8]
    venv = ROOT / "build" / f"service-overload-{lock}"
    env = {"PATH": path_with(True, tmp_path_factory.mktemp("bin")), "PYTHON": sys.executable}
    done = baked.run("make", f"VENV={venv}", "install", **env)
    assert done.returncode == 0, done.stdout + done.stderr
    return baked.path, venv / "bin" / "python"


@asynccontextmanager
async def both(installed: tuple[Path, Path]) -> AsyncIterator[tuple[Service, Upstream]]:
    async with Upstream() as upstream:
        variables = {
            "APP_BODY_TIMEOUT": "60",
            "APP_UPSTREAM_URL": upstream.url,
            "APP_UPSTREAM_TIMEOUT": str(TIMEOUT),
        }
        async with running(*installed, variables) as service:
            yield service, upstream


def run(installed: tuple[Path, Path], check: Check) -> None:
    """Run a check against a fresh service and its upstream."""

    async def whole() -> None:
        async with both(installed) as (service, upstream):
            async with asyncio.timeout(60):
                await check(service, upstream)

    asyncio.run(whole())


Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def post(service: Service, body: str, *, length: int) -> Connection:
    reader, writer = await service.connect()
    lines = "".join(f"{k}: {v}\r\n" for k, v in service.bearer.items())
    head = f"POST /api/v1/rooms/lobby/messages HTTP/1.1\r\nHost: x\r\n{lines}"
    head += f"Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    writer.write((head + body).encode())
    return reader, writer


def test_stalled_bodies_hold_no_permit_and_the_api_answers_as_before(
    installed: tuple[Path, Path],
) -> None:
    async def check(service: Service, upstream: Upstream) -> None:
        stalled: list[Connection] = []
        async with asyncio.timeout(30):
            while len(stalled) < 500:  # not all at once, which is overload of another kind
                stalled += [await post(service, "{", length=100) for _ in range(25)]
                while await service.metric("http_requests_in_flight") < len(stalled):
                    await asyncio.sleep(0.02)
                await asyncio.sleep(0.1)
        whole = '{"text": "hello"}'
        for _ in range(20):
            assert (await service.get("/api/v1/rates/EUR")).status == 200
            reader, writer = await post(service, whole, length=len(whole))
            assert (await read_answer(reader)).status == 201
            writer.close()
        # More at once than would be admitted if the stalled ones counted.
        answers = await asyncio.gather(
            *(service.get("/api/v1/rooms/lobby/messages") for _ in range(50))
        )
        assert {answer.status for answer in answers} == {200}
        for _, writer in stalled:
            writer.close()

    run(installed, check)


@pytest.mark.parametrize("currency", FAULTS)
def test_a_fault_of_the_upstream_has_its_status_in_time(
    installed: tuple[Path, Path], currency: str
) -> None:
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

    run(installed, check)


def test_hanging_calls_leave_the_other_routes_alone(installed: tuple[Path, Path]) -> None:
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

    run(installed, check)


def test_a_dead_upstream_is_left_alone_and_asked_again(installed: tuple[Path, Path]) -> None:
    async def check(service: Service, upstream: Upstream) -> None:
        answers = [await service.get("/api/v1/rates/ERR") for _ in range(30)]
        assert {answer.status for answer in answers} == {502, 503}
        assert upstream.requests <= 10  # the breaker's threshold, and the retries among them
        refused = [answer for answer in answers if answer.status == 503]
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
        async with asyncio.timeout(20):
            while (await service.get("/api/v1/rates/EUR")).status != 200:
                await asyncio.sleep(0.2)

    run(installed, check)
