"""Several processes around one Redis: the promises at full size, and what it costs against memory.

    python benchmarks/redis_streams.py PATH_OF_SERVICE_WITH_REDIS [--quick] [--only fanout]

Run it with the Python of the service's environment; it needs `redis-server`, which it starts and
kills, and nothing else. Each promise is a line with its figure and its bar, and the exit code is 1
when one is missed.

order     1,000 WebSockets and SSE streams on two and on four processes, the same order for all
resume    a client of events that is cut off 200 times and resumes on another process each time
outage    Redis killed and started again amid 5,000 messages, with persistence and without
fanout    deliveries a second and their p99, in memory, and over Redis on 1, 2 and 4 processes
topics    what one more topic costs a process, and Redis, for each read
"""

import argparse
import asyncio
import resource
import sys
import tempfile
import time
from pathlib import Path

import aiohttp

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "redis"))

from processes import (  # noqa: E402
    DURABLE,
    Client,
    Process,
    Redis,
    Senders,
    crowd,
    listen,
    outage,
    resumed,
    running,
    same_order,
    until,
    with_redis,
)

PYTHON = Path(sys.executable)


def check(name: str, figure: object, bar: str, passed: bool) -> bool:
    print(f"{'ok    ' if passed else 'MISSED'} {name:58} {figure!s:>22}   bar: {bar}", flush=True)
    return passed


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def run(folder: Path, count: int, body, *options: str) -> None:
    with tempfile.TemporaryDirectory() as data:
        asyncio.run(with_redis(folder, PYTHON, count, Path(data), body, *options))


def order(folder: Path, quick: bool) -> bool:
    passed = []
    clients, messages = (200, 200) if quick else (1000, 1000)
    for count in (2, 4):

        async def body(processes: list[Process], redis: Redis) -> None:
            wrong = await same_order(processes, rooms=10, clients=clients, messages=messages)
            name = f"order: {clients} clients, {messages} messages, {len(processes)} processes"
            passed.append(check(name, f"{len(wrong)} differ", "0", not wrong))

        run(folder, count, body)
    return all(passed)


def resume(folder: Path, quick: bool) -> bool:
    passed = []

    async def body(processes: list[Process], redis: Redis) -> None:
        sent, got = await resumed(processes, 50 if quick else 200)
        name = "resume: on another process, each id once and in order"
        passed.append(check(name, f"{len(got)} ids", f"{len(sent)} ids", got == sent))

    run(folder, 3, body)
    return all(passed)


def outages(folder: Path, quick: bool) -> bool:
    passed = []
    for kept in (DURABLE, ()):

        async def body(processes: list[Process], redis: Redis) -> None:
            told = await outage(
                processes,
                redis,
                lambda: redis.start(*kept),  # noqa: B023
                rooms=5,
                clients=20 if quick else 100,
                messages=500 if quick else 5000,
            )
            name = "outage, kept: " if kept else "outage, forgotten: "  # noqa: B023
            lost, twice = len(told.lost()), len(told.twice())
            passed.append(check(f"{name}confirmed, lost without a word", lost, "0", not lost))
            passed.append(check(f"{name}twice without a reset", twice, "0", not twice))
            wanted = {0} if kept else {1}  # noqa: B023
            resets = told.resets()
            passed.append(check(f"{name}resets a client", resets, f"{wanted}", resets == wanted))
            back = told.recovered
            passed.append(check(f"{name}seconds to recover", f"{back:.2f}", "< 5", back < 5))
            other = f"{told.failures} failed, slowest {told.slowest * 1000:.0f} ms"
            passed.append(check(f"{name}other routes", other, "0 failed", not told.failures))

        run(folder, 2, body, *kept)
    return all(passed)


async def load(
    processes: list[Process], clients: int, seconds: float
) -> tuple[float, float, float]:
    """Deliveries a second as fast as 8 senders go, p99 at a third of that, CPU a delivery in us."""
    delays: list[float] = []
    async with aiohttp.ClientSession() as session:
        listening = await crowd(processes, 4, clients, delays)
        senders = Senders(session, processes)

        async def burst(pause: float, until_: float) -> None:
            while time.monotonic() < until_:
                await senders.send(f"room-{senders.chance.randrange(4)}")
                await asyncio.sleep(pause)

        async def phase(pause: float, length: float) -> tuple[float, float]:
            delays.clear()
            begun, cpu = time.monotonic(), sum(each.cpu() for each in processes)
            await asyncio.gather(*(burst(pause, begun + length) for _ in range(8)))
            sent = sum(map(len, senders.acknowledged.values()))
            await until(lambda: sum(len(c.got) for c in listening) >= sent * clients // 4 * 0.98)
            spent = sum(each.cpu() for each in processes) - cpu
            return len(delays) / (time.monotonic() - begun), spent / max(1, len(delays))

        await phase(0.01, 1)
        rate, cpu = await phase(0, seconds)
        await phase(8 / (rate / (clients / 4)) * 3, seconds)
        p99 = percentile(delays, 0.99)
        for each in listening:
            each.transport.abort()
    return rate, p99, cpu * 1e6


def fanout(folder: Path, quick: bool) -> bool:
    clients, seconds = (80, 2.0) if quick else (400, 6.0)
    figures: dict[str, tuple[float, float, float]] = {}

    async def memory() -> None:
        async with running(folder, PYTHON, 1, "") as processes:
            figures["memory, 1 process"] = await load(processes, clients, seconds)

    asyncio.run(memory())
    for count in (1, 2, 4):

        async def body(processes: list[Process], redis: Redis) -> None:
            name = f"Redis, {len(processes)} process{'es' * (len(processes) > 1)}"
            figures[name] = await load(processes, clients, seconds)

        run(folder, count, body)
    plain = figures["memory, 1 process"]
    for name, (rate, p99, cpu) in figures.items():
        print(
            f"       {name:18} {rate:8.0f} deliveries/s ({rate / plain[0]:.2f})"
            f"   p99 {p99 * 1000:6.1f} ms ({p99 / plain[1]:.2f})   {cpu:5.1f} us of CPU a delivery"
        )
    return True


def topics(folder: Path, quick: bool) -> bool:
    async def body(processes: list[Process], redis: Redis) -> None:
        assert redis.process is not None
        server = Process(redis.port, redis.process.pid)
        counts = (1, 100, 500) if quick else (1, 100, 1000, 4000)
        opened: list[Client] = []
        async with aiohttp.ClientSession() as session:
            senders = Senders(session, processes)
            for count in counts:
                while len(opened) < count:
                    few = range(len(opened), min(len(opened) + 50, count))
                    clients = (Client(f"topic-{n}", websocket=True) for n in few)
                    opened += await asyncio.gather(*(listen(processes[0], c) for c in clients))
                before, redis_before = processes[0].cpu(), server.cpu()
                for _ in range(300):
                    await senders.send("topic-0")
                ours = (processes[0].cpu() - before) / 300 * 1e6
                theirs = (server.cpu() - redis_before) / 300 * 1e6
                print(
                    f"       {count:5} topics: {ours:7.0f} us of the process's CPU a message,"
                    f" {theirs:7.0f} us of Redis'"
                )
        for client in opened:
            client.transport.abort()

    run(folder, 1, body)
    return True


PARTS = {"order": order, "resume": resume, "outage": outages, "fanout": fanout, "topics": topics}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", choices=PARTS, action="append")
    given = parser.parse_args()
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    results = [PARTS[name](given.folder.resolve(), given.quick) for name in given.only or PARTS]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
