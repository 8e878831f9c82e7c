"""A client of events that is cut off again and again misses nothing without being told."""

import asyncio
import importlib.util
import random
import re
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from aiohttp import web

ROOT = Path(__file__).resolve().parents[2]
PATTERNS = ROOT / "{{cookiecutter.project_slug}}/src/{{cookiecutter.package_name}}/patterns"
FIELD = re.compile(rb"^(?:[0-9a-f]+\r\n)?(\w+): ?(.*)$", re.MULTILINE)  # behind a chunk's size


def pattern(name: str) -> ModuleType:
    """One file of the shelf, by itself."""
    spec = importlib.util.spec_from_file_location(f"shelf_{name}", PATTERNS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


broker_pattern, sse = pattern("broker"), pattern("sse")


@asynccontextmanager
async def serving(broker: Any) -> AsyncIterator[int]:
    streams = sse.Streams()

    async def handler(request: web.Request) -> web.StreamResponse:
        @asynccontextmanager
        async def source(send: Callable[[bytes], None], after: str | None) -> AsyncIterator[Any]:
            def chunk(event: Any) -> bytes:
                encoded: bytes = sse.sse_chunk(event.payload, id=event.id)
                return encoded

            subscribed = broker.subscribe("topic", lambda event: send(chunk(event)), after)
            async with subscribed as backlog:
                yield [chunk(event) for event in backlog.events], backlog.position, backlog.reset

        response: web.StreamResponse = await streams.serve(request, source)
        return response

    app = web.Application()
    app.router.add_get("/", handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield runner.addresses[0][1]
    await streams.drain(1.0)
    await runner.cleanup()


class Client:
    """Remembers the last id as a browser does, and what it got: ids, and `reset`."""

    def __init__(self, port: int) -> None:
        self.port, self.last, self.got = port, b"", list[str]()
        self.opened = asyncio.Event()

    async def read(self, size: int, until: Callable[[], bool]) -> None:
        """Connect, read so many bytes, and be cut off, in the middle of an event or not."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        resume = b"Last-Event-ID: %s\r\n" % self.last if self.last else b""
        writer.write(b"GET / HTTP/1.1\r\nHost: h\r\n%s\r\n" % resume)
        await reader.readuntil(b"\r\n\r\n")
        data = b""
        while size > 0 and not until():
            more = await reader.read(min(size, 4096))
            assert more, "the stream has ended"
            size, data = size - len(more), data + more
            *blocks, data = data.split(b"\n\n")
            for block in blocks:
                self.take(dict(FIELD.findall(block)))
        writer.transport.abort()

    def take(self, event: dict[bytes, bytes]) -> None:
        self.last = event.get(b"id", self.last)
        if event.get(b"event") == b"reset":
            self.got.append("reset")
        elif b"data" in event:
            self.got.append(event[b"id"].decode())
        self.opened.set()


async def interrupted(history: int, cuts: int, messages: int) -> tuple[list[str], list[str]]:
    """What was published, and what a client got that was cut off so often meanwhile."""
    broker, sent = broker_pattern.MemoryBroker(history=history), list[str]()
    cut, last = asyncio.Event(), asyncio.Event()
    chance = random.Random(history)  # noqa: S311 - the same each time, not a secret

    async def publish(client: Client) -> None:
        await client.opened.wait()
        while len(sent) < messages or not cut.is_set():
            sent.append((await broker.publish("topic", b"%d" % len(sent))).id)
            await asyncio.sleep(0.001 * (len(sent) % 5 == 0))
        last.set()
        sent.append((await broker.publish("topic", b"last")).id)

    async with asyncio.timeout(20), serving(broker) as port:
        client = Client(port)
        publishing = asyncio.create_task(publish(client))

        def complete() -> bool:
            return last.is_set() and client.got[-1:] == sent[-1:]

        for _ in range(cuts):
            await client.read(chance.randint(1, 40 * messages // cuts), complete)
            await asyncio.sleep(chance.random() * 0.005)
        cut.set()
        await client.read(sys.maxsize, complete)
        await publishing
    return sent, client.got


def test_each_event_arrives_once_and_in_order_however_often_the_connection_is_cut() -> None:
    sent, got = asyncio.run(interrupted(history=1000, cuts=30, messages=500))
    assert got == sent


@pytest.mark.parametrize("history", [1, 5])
def test_who_comes_back_too_late_is_told_so_right_before_the_gap(history: int) -> None:
    sent, got = asyncio.run(interrupted(history=history, cuts=30, messages=500))
    assert got.count("reset") > 0
    kept = [item for item in got if item != "reset"]
    assert kept == sorted(set(kept), key=sent.index)
    for before, item in zip(["reset", *got], got, strict=False):
        if item != "reset" and before != "reset":
            assert sent.index(item) == sent.index(before) + 1
