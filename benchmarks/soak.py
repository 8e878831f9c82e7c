"""Soak: cycles of mixed faults, and after each the numbers that must not grow.

    python benchmarks/soak.py PATH_OF_GENERATED_SERVICE [--minutes 5] [--quick]

Run it with the Python of the service's environment. A cycle is about 300 requests: every fault of
an upstream by itself, so that it is seen as what it is, then all at once, which opens the breaker;
good ones, clients that leave in the middle of a request, an answer, a body or a stream, garbage,
half a head, and a burst above the limit. Then the service rests until the breaker lets a call
through, which must close it, and its tasks, open files (but for the pool of connections to the
upstream), permits, streams and memory are read. The first fifth of the run warms up; from then on
nothing may be higher at the end than at the beginning, memory by at most 50 KiB a cycle. Each fault
must have had its own status each time.
"""

import argparse
import asyncio
import json
import os
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests" / "overload"))
from faults import FAULTS, Upstream  # noqa: E402
from running import Service  # noqa: E402

GROWTH = 50 * 1024  # bytes a cycle
COOLDOWN = 5.0  # seconds that the breaker stays open
EUR = "/api/v1/rates/EUR"


@dataclass(frozen=True)
class Rest:
    """What was read after a cycle."""

    tasks: int
    permits: int
    streams: int
    waiting: int
    files: int
    memory: int


async def leave(service: Service, data: str, after: float) -> None:
    """Send bytes, and break off the connection after so many seconds."""
    _, writer = await service.connect()
    writer.write(data.encode())
    await asyncio.sleep(after)
    writer.transport.abort()


def head(service: Service, method: str, path: str, **headers: str) -> str:
    lines = "".join(f"{k}: {v}\r\n" for k, v in (service.bearer | headers).items())
    return f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{service.port}\r\n{lines}\r\n"


async def get(service: Service, path: str, seen: Counter[str]) -> None:
    seen[str((await service.get(path)).status)] += 1


async def each_fault(service: Service, seen: Counter[str]) -> None:
    """One after the other, with a good call after each, so that the breaker stays closed."""
    for currency, (_, status) in FAULTS.items():
        answer = await service.get(f"/api/v1/rates/{currency}")
        seen[f"{currency} {'as it is' if answer.status == status else 'else'}"] += 1
        for _ in range(2):  # a failure is retried, and each attempt was counted
            await get(service, EUR, seen)


async def cycle(service: Service, seen: Counter[str]) -> None:
    await each_fault(service, seen)
    room = "/api/v1/rooms/lobby"
    body = head(service, "POST", f"{room}/messages", **{"Content-Length": "100"})
    socket = head(
        service,
        "GET",
        f"{room}/ws",
        Connection="Upgrade",
        Upgrade="websocket",
        **{"Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="},
    )
    broken = [
        *(leave(service, head(service, "GET", "/api/v1/rates/SLO"), 0.1) for _ in range(10)),
        *(leave(service, body + "{", 0.3) for _ in range(20)),
        *(leave(service, head(service, "GET", f"{room}/events"), 0.2) for _ in range(10)),
        *(leave(service, socket, 0.2) for _ in range(10)),
        *(leave(service, "GET / HT", 0.1) for _ in range(10)),
        *(leave(service, "\x00\x01 garbage\r\n\r\n", 0.1) for _ in range(10)),
        *(leave(service, head(service, "GET", f"{room}/messages"), 0.0) for _ in range(20)),
    ]
    faults = [get(service, f"/api/v1/rates/{currency}", seen) for currency in FAULTS]
    good = [get(service, f"{room}/messages", seen) for _ in range(20)]
    good += [get(service, EUR, seen) for _ in range(20)]
    await asyncio.gather(*broken, *faults, *good)
    burst = [get(service, "/cpu/20", seen) for _ in range(200)]
    for result in await asyncio.gather(*burst, return_exceptions=True):
        seen["lost"] += isinstance(result, BaseException)


def pooled(port: int) -> int:
    """Connections to the upstream that are open: the session keeps each for 15 s after its use."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[2].endswith(f":{port:04X}") and row[3] == "01" for row in rows)


async def rest(service: Service, upstream_port: int, seen: Counter[str]) -> Rest:
    """The numbers once nothing is under way and the breaker has closed: the lowest of some."""
    await asyncio.sleep(COOLDOWN + 0.5)
    closed = (await service.get(EUR)).status == 200
    seen["breaker closed" if closed else "breaker still open"] += 1
    found: list[Rest] = []
    for _ in range(3):
        state = json.loads((await service.get("/state")).body)
        files = service.files() - pooled(upstream_port)
        found.append(Rest(**state, files=files, memory=service.memory()))
        await asyncio.sleep(0.1)
    return min(found, key=lambda numbers: (numbers.tasks, numbers.files))


async def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("service", type=Path)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--quick", action="store_true", help="half a minute")
    given = parser.parse_args()
    seconds = 30.0 if given.quick else given.minutes * 60
    async with Upstream() as upstream:
        settings = {"env": "dev", "upstream_url": upstream.url, "upstream_timeout": 0.5}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, HERE / "bench_server.py", given.service, "adaptive"),
            *("--settings", json.dumps(settings)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            assert process.stdout is not None
            port = int((await process.stdout.readline()).rpartition(b":")[2])
            token = (await process.stdout.readline()).decode().strip()
            service = Service(port, process.pid, token)
            readings, seen = await soaked(service, int(upstream.url.rpartition(":")[2]), seconds)
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    sys.exit(judge(readings, seen))


async def soaked(
    service: Service, upstream_port: int, seconds: float
) -> tuple[list[Rest], Counter[str]]:
    readings: list[Rest] = []
    seen: Counter[str] = Counter()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        await cycle(service, seen)
        readings.append(await rest(service, upstream_port, seen))
        if len(readings) % 10 == 1:
            print(f"cycle {len(readings):4} {readings[-1]}", flush=True)
    return readings, seen


def judge(readings: list[Rest], seen: Counter[str]) -> bool:
    """Print the figures, and tell whether something grew or was not as it should be."""
    steady = readings[len(readings) // 5 :]
    part = max(1, len(steady) // 4)
    first, last = steady[:part], steady[-part:]
    wrong = [what for what in seen if what.endswith(("else", "still open"))]
    print(f"{len(readings)} cycles, answers {dict(sorted(seen.items()))}")
    grew = bool(wrong)
    for name in ("tasks", "permits", "streams", "waiting", "files"):
        before, after = (median(getattr(r, name) for r in group) for group in (first, last))
        grew |= after > before + (name == "files")  # the pool is counted a moment later
        print(f"{name:8} {before:8.0f} -> {after:8.0f}")
    before, after = (median(r.memory for r in group) for group in (first, last))
    each = (after - before) / max(1, len(steady) - part)
    grew |= each > GROWTH
    print(
        f"memory   {before / 2**20:7.1f}M -> {after / 2**20:7.1f}M, {each / 1024:.1f} KiB a cycle"
    )
    return grew


if __name__ == "__main__":
    if hasattr(os, "nice"):
        os.nice(5)
    asyncio.run(main())
