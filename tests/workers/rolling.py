"""Workers under supervisord, restarted one after the other under load: what their clients see.

Standard library only, and no client that would try again by itself, so that nothing stays hidden.
`benchmarks/rolling_restart.py` runs the same with more of all.
"""

import asyncio
import base64
import itertools
import json
import os
import random
import re
import shutil
import socket
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from hmac import digest
from pathlib import Path

SECRET = "0123456789abcdef" * 4
ROOMS = "/api/v1/rooms"
CONFIG = "supervisord.here.conf"  # the service's own, but for its admin ports
EVENT_ID = re.compile(rb"(?:^|\n)id: (\d+-\d+)\n")
CLOSE, PING = 8, 9  # opcodes of RFC 6455


@cache
def token() -> str:
    now = int(time.time())
    claims = {"iss": "test", "aud": "test", "sub": "tester", "iat": now, "exp": now + 3600}
    parts = [{"alg": "HS256", "typ": "JWT"}, claims | {"scope": "rooms:read rooms:write"}]
    signed = b".".join(_base64(json.dumps(part).encode()) for part in parts)
    return (signed + b"." + _base64(digest(SECRET.encode(), signed, sha256))).decode()


def _base64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def free_ports(count: int) -> int:
    """The first of so many free ports in a row, below those that the kernel gives away."""
    for first in random.sample(range(20_000, 30_000, 10), 1000):
        with suppress(OSError):
            for port in range(first, first + count):
                socket.create_server(("127.0.0.1", port)).close()
            return first
    raise AssertionError("no free ports")


@dataclass(frozen=True)
class Workers:
    """So many workers of the service in `folder`, under the supervisord of its environment."""

    folder: Path
    bin: Path
    port: int
    admin: int  # the port of worker 1
    count: int

    async def ready(self, number: int) -> None:
        async with asyncio.timeout(60):
            while True:
                with suppress(OSError, asyncio.IncompleteReadError):
                    status, _, _ = await ask(self.admin + number - 1, "/readyz")
                    if status == 200:
                        return
                await asyncio.sleep(0.05)

    async def restart(self, number: int) -> None:
        """Restart one; back when the new process is ready."""
        (name,) = re.findall(r"program:(.+)\]", (self.folder / CONFIG).read_text())
        control = [str(self.bin / "supervisorctl"), "-c", CONFIG]
        process = await asyncio.create_subprocess_exec(
            *control, "restart", f"{name}:{number}", cwd=self.folder, stdout=subprocess.PIPE
        )
        out, _ = await process.communicate()
        assert process.returncode == 0, out
        assert out.count(b"started") == 1, out
        await self.ready(number)


@asynccontextmanager
async def running(
    folder: Path, python: Path, count: int, redis_url: str, **settings: str
) -> AsyncIterator[Workers]:
    """The workers as the service's own `supervisord.conf` runs them, on ports that are free."""
    (package,) = (path.parent.name for path in (folder / "src").glob("*/app.py"))
    first = free_ports(count + 1)
    config = (folder / "supervisord.conf").read_text()
    assert f"-m {package}\n" in config
    ours = config.replace("90%(process_num)02d", f"{first // 10}%(process_num)d")
    assert ours != config
    (folder / CONFIG).write_text(ours)
    clean = {k: v for k, v in os.environ.items() if not k.startswith("APP_")}
    given = {
        "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str((folder / "src").absolute()),
        "LISTEN": f"127.0.0.1:{first}",
        "WORKERS": str(count),
        "APP_HOST": "127.0.0.1",
        "APP_JWT_SECRET": SECRET,
        "APP_JWT_ISSUER": "test",
        "APP_JWT_AUDIENCE": "test",
        "APP_LOG_LEVEL": "warning",
        "APP_REDIS_URL": redis_url,
        "APP_ADAPTIVE_CONCURRENCY": "false",  # it may refuse because the machine is busy
    }
    command = [str(python.parent / "supervisord"), "-c", CONFIG]
    log = folder / "supervisord.log"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command, cwd=folder, env=clean | given | settings, stdout=output, stderr=output
        ) as process,
    ):
        try:
            workers = Workers(folder, python.parent, first, first + 1, count)
            for number in range(1, count + 1):
                await workers.ready(number)
            yield workers
        finally:
            process.terminate()
            await asyncio.to_thread(process.wait)
            print(log.read_text()[-4000:])  # shown when the test fails
    assert process.returncode == 0


@asynccontextmanager
async def redis(folder: Path) -> AsyncIterator[str]:
    """The URL of a server of its own, which keeps nothing on disk."""
    server = shutil.which("redis-server")
    assert server, "no redis-server on the PATH"
    port = free_ports(1)
    command = [server, "--port", str(port), "--save", "", "--dir", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            async with asyncio.timeout(10):
                while True:
                    with suppress(OSError):
                        socket.create_connection(("127.0.0.1", port)).close()
                        break
                    await asyncio.sleep(0.01)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            process.kill()


Answer = tuple[int, bool, bytes]
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def head(method: str, path: str, **headers: object) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", f"Authorization: Bearer {token()}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def connect(port: int) -> Connection:
    return await asyncio.open_connection("127.0.0.1", port)


async def answer(reader: asyncio.StreamReader) -> Answer:
    """The status, whether the connection ends with it, and the body."""
    first = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", first, re.IGNORECASE)
    assert length, first
    body = await reader.readexactly(int(length[1]))
    return int(first.split()[1]), b"connection: close" in first.lower(), body


async def ask(port: int, path: str) -> Answer:
    """One request on a connection of its own."""
    reader, writer = await connect(port)
    try:
        writer.write(head("GET", path, Connection="close"))
        return await answer(reader)
    finally:
        writer.close()


@dataclass
class Load:
    """Clients of every kind, and what they saw; ids are those of the messages."""

    port: int
    rooms: int
    pause: float  # mean seconds between the requests of one client
    outcomes: Counter[tuple[str, object]] = field(default_factory=Counter)
    acknowledged: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    streams: "list[Stream]" = field(default_factory=list)
    slowest: float = 0
    stopping: bool = False

    @property
    def failed(self) -> list[tuple[str, object, int]]:
        good: set[tuple[str, object]] = {("get", 200), ("post", 201), ("ws", 101), ("sse", 200)}
        good |= {("ws end", 1001), ("sse end", "retry")}
        return [(*what, count) for what, count in self.outcomes.items() if what not in good]

    async def requests(self, kind: str, once: Callable[[], Awaitable[int]]) -> None:
        """One after the other; whatever is not an answer is the name of an exception."""
        while not self.stopping:
            begun = time.monotonic()
            try:
                async with asyncio.timeout(20):
                    self.outcomes[kind, await once()] += 1
            except (OSError, EOFError) as error:  # a timeout is an OSError, too
                self.outcomes[kind, type(error).__name__] += 1
            self.slowest = max(self.slowest, time.monotonic() - begun)
            await asyncio.sleep(random.expovariate(1 / self.pause))

    async def getting(self, number: int) -> None:
        """A new connection for each request."""

        async def once() -> int:
            status, _, _ = await ask(self.port, f"{ROOMS}/room-{number % self.rooms}/messages")
            return status

        await self.requests("get", once)

    async def posting(self, number: int) -> None:
        """One connection, for as long as the server keeps it."""
        room = f"room-{number % self.rooms}"
        kept: list[Connection] = []
        body = b'{"text": "hello"}'
        request = head(
            "POST",
            f"{ROOMS}/{room}/messages",
            Content_Type="application/json",
            Content_Length=len(body),
        )

        async def once() -> int:
            if not kept:
                kept.append(await connect(self.port))
            reader, writer = kept[0]
            last = True
            try:
                writer.write(request + body)
                status, last, sent = await answer(reader)
            finally:
                if last:
                    kept.pop()[1].close()
            if status == 201:
                self.acknowledged[room].append(json.loads(sent)["id"])
            return status

        await self.requests("post", once)
        for _, writer in kept:
            writer.close()

    def wrong(self) -> list[str]:
        """What a stream missed, doubled, or had in another order."""
        found = []
        for stream in self.streams:
            sent = {id_ for id_ in self.acknowledged[stream.room] if key(id_) > key(stream.first)}
            missed, twice = sent - {*stream.got}, len(stream.got) - len({*stream.got})
            if missed or twice or stream.got != sorted(stream.got, key=key):
                found.append(f"{type(stream).__name__}: {len(missed)} missed, {twice} twice")
        return found

    def complete(self) -> bool:
        return all(
            key(stream.last) >= max(map(key, self.acknowledged[stream.room]), default=(0, 0))
            for stream in self.streams
        )


def key(id_: str) -> tuple[int, int]:
    ms, seq = id_.split("-")
    return int(ms), int(seq)


class Stream:
    """A client that comes back whenever its stream ends, not all at once, and from where it was."""

    def __init__(self, load: Load, room: str) -> None:
        self.load, self.room, self.got = load, room, list[str]()
        self.first = self.last = "0-0"
        self.opened, self.returned = asyncio.Event(), 0
        self.retry = 0.1  # seconds

    async def run(self) -> None:
        kind = type(self).__name__.lower()
        for self.returned in itertools.count():
            try:
                status, end = await self.once()
                self.load.outcomes[kind, status] += 1
                self.load.outcomes[f"{kind} end", end] += 1
            except (OSError, EOFError) as error:
                self.load.outcomes[kind, type(error).__name__] += 1
            await asyncio.sleep(self.retry)

    async def once(self) -> tuple[int, object]:
        """Open and read to the end: the status, and how it ended."""
        raise NotImplementedError

    def take(self, id_: str) -> None:
        self.got.append(id_)
        self.last = id_


class SSE(Stream):
    async def once(self) -> tuple[int, object]:
        reader, writer = await connect(self.load.port)
        try:
            resume = {"Last_Event_ID": self.last} if self.opened.is_set() else {}
            writer.write(head("GET", f"{ROOMS}/{self.room}/events", **resume))
            status = int((await reader.readuntil(b"\r\n\r\n")).split()[1])
            text = b""
            while size := int(await reader.readline() or b"-1", 16):
                if size < 0:
                    return status, "cut off"
                text += (await reader.readexactly(size + 2))[:-2]
                *events, text = text.split(b"\n\n")
                for event in events:
                    self.event(event)
            told = re.fullmatch(rb"retry: (\d+)", events[-1])
            self.retry = int(told[1]) / 1000 if told else 0.1
            return status, "retry" if told else "no retry"
        finally:
            writer.close()

    def event(self, event: bytes) -> None:
        at = EVENT_ID.search(event + b"\n")
        if b"event: reset" in event:
            self.got.append("reset")
        elif at and not self.opened.is_set():
            self.first = self.last = at[1].decode()
            self.opened.set()
        elif at and b"data: " in event:
            self.take(at[1].decode())


class WS(Stream):
    """What came while it was away it takes from the history; ids tell what it has already."""

    async def once(self) -> tuple[int, object]:
        reader, writer = await connect(self.load.port)
        try:
            writer.write(
                head(
                    "GET",
                    f"{ROOMS}/{self.room}/ws",
                    Connection="Upgrade",
                    Upgrade="websocket",
                    Sec_WebSocket_Version=13,
                    Sec_WebSocket_Key="AAAAAAAAAAAAAAAAAAAAAA==",
                )
            )
            status = int((await reader.readuntil(b"\r\n\r\n")).split()[1])
            await self.catch_up()
            self.opened.set()
            while True:
                opcode, payload = await frame(reader)
                if opcode == CLOSE:
                    writer.write(b"\x88\x82\0\0\0\0" + payload[:2])
                    self.retry = random.uniform(0.1, 3)  # noqa: S311 - no secret
                    return status, int.from_bytes(payload[:2], "big")
                if opcode == PING:
                    writer.write(b"\x8a\x80\0\0\0\0")
                else:
                    self.new(json.loads(payload)["id"])
        finally:
            writer.close()

    async def catch_up(self) -> None:
        more: str | None = self.last
        while more:
            path = f"{ROOMS}/{self.room}/messages?limit=100&after={more}"
            status, _, body = await ask(self.load.port, path)
            self.load.outcomes["get", status] += 1
            if status != 200:
                raise ConnectionError(body)
            page = json.loads(body)
            for item in page["items"]:
                self.new(item["id"])
            more = page["next"]

    def new(self, id_: str) -> None:
        if key(id_) > key(self.last):
            self.take(id_)


async def frame(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """One whole frame of a server, which masks nothing."""
    first, size = await reader.readexactly(2)
    if size >= 126:
        size = int.from_bytes(await reader.readexactly(2 if size == 126 else 8), "big")
    return first & 15, await reader.readexactly(size)


@dataclass(frozen=True)
class Size:
    """How many clients of each kind, and the mean seconds between requests of one."""

    getting: int
    posting: int
    streams: int  # of each kind
    rooms: int
    pause: float


async def rolling_restart(workers: Workers, size: Size) -> tuple[Load, list[float]]:
    """Restart all workers one by one under load: what was seen, and the seconds each took."""
    load, took = Load(workers.port, size.rooms, size.pause), list[float]()
    for number in range(size.streams):
        load.streams += [SSE(load, f"room-{number % size.rooms}")]
        load.streams += [WS(load, f"room-{number % size.rooms}")]
    running: list[asyncio.Task[None]] = []
    async with asyncio.timeout(60):
        for stream in load.streams:
            running.append(asyncio.create_task(stream.run()))
            await stream.opened.wait()
    asking = [asyncio.create_task(load.getting(n)) for n in range(size.getting)]
    asking += [asyncio.create_task(load.posting(n)) for n in range(size.posting)]
    for number in range(1, workers.count + 1):
        begun = time.monotonic()
        await workers.restart(number)
        took.append(time.monotonic() - begun)
    load.stopping = True
    await asyncio.gather(*asking)
    with suppress(TimeoutError):
        async with asyncio.timeout(20):
            while not load.complete():
                await asyncio.sleep(0.05)
    for task in running:
        task.cancel()
    await asyncio.wait(running)
    return load, took
