"""An open-loop load generator: requests leave at the times of a Poisson process, answers or not.

A closed loop (N workers, each waiting for its answer) slows down with the server and so hides its
overload. Here latency counts from the time a request was due, and a client that has waited one
second gives up and closes its connection. Keep-alive connections are used again; more are opened
whenever none is free, as independent clients would.
"""

import asyncio
import gc
import random
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

PATIENCE = 1.0  # seconds until a client gives up
NO_ANSWER = 0


@dataclass(frozen=True, slots=True)
class Phase:
    """So many seconds of so many requests a second, on paths by their weight."""

    seconds: float
    rate: float
    paths: Mapping[str, float]


@dataclass(slots=True)
class Sample:
    """One request: when it was due (seconds since the beginning), and what came back when."""

    due: float
    path: str
    fresh: bool = False  # on a connection of its own, as probes of an orchestrator are
    status: int = NO_ANSWER
    seconds: float = PATIENCE
    connection: "_Connection | None" = None
    done: bool = False


@dataclass(slots=True)
class Load:
    """What a run found: all samples, and how late the generator itself was at worst 1 %."""

    samples: list[Sample]
    lateness: list[float] = field(default_factory=list[float])


def poisson(phases: Sequence[Phase], seed: int) -> Iterator[Sample]:
    """The requests of the phases one after the other."""
    dice, begin = random.Random(seed), 0.0
    for phase in phases:
        paths, weights = list(phase.paths), list(phase.paths.values())
        due = begin
        while phase.rate and (due := due + dice.expovariate(phase.rate)) < begin + phase.seconds:
            yield Sample(due, dice.choices(paths, weights)[0])
        begin += phase.seconds


def probes(path: str, seconds: float, rate: float) -> Iterator[Sample]:
    """Requests at even intervals, each on a new connection."""
    for number in range(int(seconds * rate)):
        yield Sample(number / rate, path, fresh=True)


async def run(host: str, port: int, samples: Sequence[Sample]) -> Load:
    """Send every sample when it is due, and return when the last is answered or given up."""
    load = _Run(host, port)
    gc.collect()
    gc.disable()  # a collection would make requests late, and there are no cycles to find
    try:
        return await load.send_all(sorted(samples, key=lambda sample: sample.due))
    finally:
        gc.enable()


class _Run:
    def __init__(self, host: str, port: int) -> None:
        self.address = (host, port)
        self.host = host
        self.idle: list[_Connection] = []
        self.opening: set[asyncio.Task[None]] = set()
        self.begin = 0.0
        self.waiting: deque[Sample] = deque()

    async def send_all(self, samples: list[Sample]) -> Load:
        load = Load(samples)
        self.begin = time.perf_counter() + 0.05
        position = 0
        while position < len(samples) or self.waiting:
            now = time.perf_counter() - self.begin
            while position < len(samples) and samples[position].due <= now:
                load.lateness.append(now - samples[position].due)
                self.send(samples[position])
                position += 1
            self.give_up(now - PATIENCE)
            await asyncio.sleep(0.001)
        for connection in self.idle:
            connection.close()
        await asyncio.gather(*self.opening, return_exceptions=True)
        return load

    def send(self, sample: Sample) -> None:
        self.waiting.append(sample)
        while self.idle and not sample.fresh:
            connection = self.idle.pop()
            if connection.open:
                connection.send(sample)
                return
        task = asyncio.get_running_loop().create_task(self.connect(sample))
        self.opening.add(task)
        task.add_done_callback(self.opening.discard)

    async def connect(self, sample: Sample) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(PATIENCE):
                _, connection = await loop.create_connection(
                    lambda: _Connection(self), *self.address
                )
        except OSError:  # TimeoutError, and no more descriptors, too
            self.answered(sample, NO_ANSWER)
            return
        if sample.done:
            connection.close()
        else:
            connection.send(sample)

    def give_up(self, until: float) -> None:
        waiting = self.waiting
        while waiting and (waiting[0].done or waiting[0].due < until):
            sample = waiting.popleft()
            if not sample.done:
                sample.done = True
                if sample.connection is not None:
                    sample.connection.close()

    def answered(self, sample: Sample, status: int) -> None:
        if not sample.done:
            sample.done = True
            sample.status = status
            sample.seconds = time.perf_counter() - self.begin - sample.due
        sample.connection = None


class _Connection(asyncio.Protocol):
    def __init__(self, load: _Run) -> None:
        self.load = load
        self.open = False
        self.sample: Sample | None = None
        self.received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.open = True

    def send(self, sample: Sample) -> None:
        self.sample, sample.connection = sample, self
        self.transport.write(b"GET %s HTTP/1.1\r\nHost: bench\r\n\r\n" % sample.path.encode())

    def data_received(self, data: bytes) -> None:
        received = self.received = self.received + data
        end = received.find(b"\r\n\r\n")
        if end < 0:
            return
        at = received.find(b"ontent-Length: ", 0, end) + 15
        line = received.find(b"\r\n", at)
        if len(received) < end + 4 + int(received[at:line]):
            return
        sample, self.sample, self.received = self.sample, None, b""
        if sample is not None:
            self.load.answered(sample, int(received[9:12]))
            if sample.fresh:
                self.close()
            else:
                self.load.idle.append(self)

    def connection_lost(self, error: Exception | None) -> None:
        self.open = False
        if self.sample is not None:
            self.load.answered(self.sample, NO_ANSWER)
            self.sample = None

    def close(self) -> None:
        self.open = False
        self.sample = None
        self.transport.abort()


async def capacity(host: str, port: int, path: str, clients: int, seconds: float) -> float:
    """Answers a second in a closed loop: what the server can do when nobody pushes it."""
    answers = 0
    request = b"GET %s HTTP/1.1\r\nHost: bench\r\n\r\n" % path.encode()

    async def client() -> None:
        nonlocal answers
        reader, writer = await asyncio.open_connection(host, port)
        while True:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.partition(b"ontent-Length: ")[2].split(b"\r")[0]))
            answers += 1

    tasks = [asyncio.create_task(client()) for _ in range(clients)]
    await asyncio.sleep(0.3)
    before, begin = answers, time.perf_counter()
    await asyncio.sleep(seconds)
    rate = (answers - before) / (time.perf_counter() - begin)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return rate
