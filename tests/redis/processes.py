"""Processes of a generated service around one Redis, and clients of its rooms: what they all get.

Standard library and aiohttp's client. `benchmarks/redis_streams.py` runs the same with more of all.
"""

import asyncio
import base64
import json
import os
import random
import re
import shutil
import socket
import subprocess
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from hmac import digest
from pathlib import Path

import aiohttp

SECRET = "0123456789abcdef" * 4
ROOMS = "/api/v1/rooms"
DURABLE = ("--appendonly", "yes", "--appendfsync", "always")
# An event as either kind of stream has it, a word of loss, and a ping that wants an answer.
CAME = re.compile(rb'\{(?:"type":"message",)?"id":"([0-9]+-[0-9]+)"|(event: reset|"type":"reset")')
STAMP = re.compile(rb'"text":"([0-9]+)"')
PING, PONG = b"\x89\x00", b"\x8a\x80\0\0\0\0"
RESET = "reset"


class Redis:
    """A server of its own on a free port, which keeps nothing unless it is started as `DURABLE`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self, *options: str) -> None:
        server = shutil.which("redis-server")
        assert server, "no redis-server on the PATH"
        command = [server, "--port", str(self.port), "--save", "", "--dir", str(self.folder)]
        self.process = subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL)
        for _ in range(500):
            with suppress(ConnectionError), socket.create_connection(("127.0.0.1", self.port)):
                return
            time.sleep(0.01)
        raise AssertionError("redis-server does not start")

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@dataclass(frozen=True)
class Process:
    """One process of the service."""

    port: int
    pid: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def cpu(self) -> float:
        """Seconds of CPU that it has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@asynccontextmanager
async def running(
    folder: Path, python: Path, count: int, redis_url: str, **settings: str
) -> AsyncIterator[list[Process]]:
    """So many processes of the service in `folder`, each on a port of its own."""
    (package,) = (path.parent.name for path in (folder / "src").glob("*/app.py"))
    clean = {k: v for k, v in os.environ.items() if not k.startswith("APP_")}
    given = {
        "PYTHONPATH": str((folder / "src").absolute()),
        "APP_HOST": "127.0.0.1",
        "APP_PORT": "0",
        "APP_JWT_SECRET": SECRET,
        "APP_JWT_ISSUER": "test",
        "APP_JWT_AUDIENCE": "test",
        "APP_LOG_LEVEL": "warning",
        "APP_REDIS_URL": redis_url,
    }
    env = clean | given | settings
    async with AsyncExitStack() as stack:
        found: list[Process] = []
        started: list[subprocess.Popen[bytes]] = []
        for _ in range(count):
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            process = subprocess.Popen(
                [str(python), "-m", package], cwd=folder, env=env | {"APP_PORT": str(port)}
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            started.append(process)
            found.append(Process(port, process.pid))
        async with aiohttp.ClientSession() as session:
            for each, process in zip(found, started, strict=True):
                await _ready(session, each, process)
        yield found


async def _ready(
    session: aiohttp.ClientSession, address: Process, process: "subprocess.Popen[bytes]"
) -> None:
    async with asyncio.timeout(60):
        while True:
            assert process.poll() is None, "the service did not start"
            with suppress(aiohttp.ClientError):
                async with session.get(f"{address.url}/readyz") as response:
                    if response.status == 200:
                        return
            await asyncio.sleep(0.02)


def token() -> str:
    now = int(time.time())
    claims = {"iss": "test", "aud": "test", "sub": "tester", "iat": now, "exp": now + 3600}
    parts = [{"alg": "HS256", "typ": "JWT"}, claims | {"scope": "rooms:read rooms:write"}]
    signed = b".".join(_base64(json.dumps(part).encode()) for part in parts)
    return (signed + b"." + _base64(digest(SECRET.encode(), signed, sha256))).decode()


def _base64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


BEARER = {"Authorization": f"Bearer {token()}"}


@dataclass
class Client(asyncio.Protocol):
    """A stream of a room, read as bytes: what came, in its order."""

    room: str
    websocket: bool
    after: str = ""
    delays: list[float] | None = None  # seconds from the sender's stamp to here, when wanted
    got: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.open: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.closed = False
        self.rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        kind = "ws" if self.websocket else "events"
        lines = [f"GET {ROOMS}/{self.room}/{kind} HTTP/1.1", "Host: 127.0.0.1"]
        lines += [f"{name}: {value}" for name, value in BEARER.items()]
        if self.websocket:
            lines += ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"]
            lines += ["Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="]
        elif self.after:
            lines += [f"Last-Event-ID: {self.after}"]
        transport.write(("\r\n".join(lines) + "\r\n\r\n").encode())

    def data_received(self, data: bytes) -> None:
        if not self.open.done():
            self.rest += data
            if b"\r\n\r\n" not in self.rest:
                return
            head, data = self.rest.split(b"\r\n\r\n", 1)
            self.rest = b""
            if not head.startswith((b"HTTP/1.1 101", b"HTTP/1.1 200")):
                self.open.set_exception(AssertionError(head.decode()))
                return
            self.open.set_result(None)
        if self.websocket and PING in data[:2]:
            self.transport.write(PONG)
        now = time.monotonic_ns()
        if self.delays is not None:
            self.delays += [(now - int(at[1])) / 1e9 for at in STAMP.finditer(data)]
        data = self.rest + data
        end = 0
        for found in CAME.finditer(data):
            self.got.append(found[1].decode() if found[1] else RESET)
            end = found.end()
        self.rest = data[end:][-64:]  # an event may be cut anywhere

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if not self.open.done():
            self.open.set_exception(AssertionError("not opened"))


async def listen(process: Process, client: Client) -> Client:
    loop = asyncio.get_running_loop()
    await loop.create_connection(lambda: client, "127.0.0.1", process.port)
    async with asyncio.timeout(20):
        await client.open
    return client


async def crowd(
    processes: Sequence[Process], rooms: int, clients: int, delays: list[float] | None = None
) -> list[Client]:
    """So many clients, each kind in each room on each process."""
    opened: list[Client] = []
    for number in range(0, clients, 50):
        opened += await asyncio.gather(
            *(
                listen(
                    processes[n % len(processes)],
                    Client(
                        f"room-{n // len(processes) // 2 % rooms}",
                        websocket=n // len(processes) % 2 == 0,
                        delays=delays,
                    ),
                )
                for n in range(number, min(number + 50, clients))
            )
        )
    return opened


class Senders:
    """Posts to random processes; `acknowledged` has what was answered with 201, by room."""

    def __init__(self, session: aiohttp.ClientSession, processes: Sequence[Process]) -> None:
        self.session, self.processes = session, processes
        self.acknowledged: dict[str, list[str]] = defaultdict(list)
        self.refused = 0
        self.chance = random.Random(1)  # noqa: S311 - the same each time, not a secret

    async def send(self, room: str, text: str | None = None) -> str | None:
        """The id; None when it was refused, which must be a 503 that says when to come again."""
        url = f"{self.chance.choice(self.processes).url}{ROOMS}/{room}/messages"
        body = {"text": text or str(time.monotonic_ns())}
        async with self.session.post(url, json=body, headers=BEARER) as response:
            if response.status == 503:
                assert int(response.headers["Retry-After"]) > 0
                self.refused += 1
                return None
            assert response.status == 201, await response.text()
            id_ = str((await response.json())["id"])
            self.acknowledged[room].append(id_)
            return id_


def key(id_: str) -> tuple[int, int]:
    ms, seq = id_.split("-")
    return int(ms), int(seq)


async def until(true: Callable[[], object], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.01)


async def same_order(
    processes: Sequence[Process], rooms: int, clients: int, messages: int
) -> list[str]:
    """What is wrong when many send to all rooms at once; nothing is right."""
    async with aiohttp.ClientSession() as session:
        listening = await crowd(processes, rooms, clients)
        senders = Senders(session, processes)

        async def send(number: int) -> None:
            for n in range(number, messages, 16):
                assert await senders.send(f"room-{n % rooms}")

        await asyncio.gather(*(send(number) for number in range(16)))
        wanted = {room: sorted(ids, key=key) for room, ids in senders.acknowledged.items()}
        with suppress(TimeoutError):
            await until(lambda: all(len(c.got) >= len(wanted[c.room]) for c in listening))
        wrong = [f"{c.room} {len(c.got)}" for c in listening if c.got != wanted[c.room]]
        for each in listening:
            each.transport.abort()
    assert sum(map(len, wanted.values())) == messages
    return wrong


async def resumed(processes: Sequence[Process], cuts: int) -> tuple[list[str], list[str]]:
    """What was sent, and what a client got that was cut off and resumed elsewhere so often."""
    chance, got, cut = random.Random(2), list[str](), asyncio.Event()  # noqa: S311
    async with aiohttp.ClientSession() as session:
        senders = Senders(session, processes)
        client = await listen(chance.choice(processes), Client("lobby", websocket=False))

        async def send() -> None:
            while not cut.is_set():
                await senders.send("lobby")

        sending = asyncio.create_task(send())
        process = processes[0]
        for _ in range(cuts):
            enough = chance.randint(0, 20)
            await until(lambda: len(client.got) >= enough)  # noqa: B023 - it is called at once
            client.transport.abort()
            got += client.got
            process = chance.choice([each for each in processes if each is not process])
            # The id of the position, when nothing has come since the stream was opened.
            after = client.got[-1] if client.got else client.after
            client = Client("lobby", websocket=False, after=after or got[-1] if got else "")
            await listen(process, client)
        cut.set()
        await sending
        sent = senders.acknowledged["lobby"]
        with suppress(TimeoutError):
            await until(lambda: (got + client.got)[-1:] == sent[-1:])
        client.transport.abort()
        return sent, got + client.got


@dataclass
class Outage:
    """What came of a Redis that was killed and started again while messages were sent."""

    acknowledged: dict[str, list[str]]
    listening: list[Client]
    refused: int
    recovered: float  # seconds from the start of Redis to the first message that is taken again
    slowest: float  # seconds of the slowest request to a route that needs no Redis
    failures: int  # of those requests

    def lost(self) -> list[str]:
        """Messages that were confirmed, did not come, and were not announced as lost."""
        return [
            f"{client.room} {id_}"
            for client in self.listening
            for id_ in self.acknowledged[client.room]
            if id_ not in client.got and not _told(client.got, id_)
        ]

    def twice(self) -> list[str]:
        """What came twice without a reset in between."""
        found = []
        for client in self.listening:
            seen = set[str]()
            for id_ in client.got:
                if id_ in seen:
                    found.append(id_)
                seen = set() if id_ == RESET else seen | {id_}
        return found

    def resets(self) -> set[int]:
        """How often clients were told of a loss."""
        return {client.got.count(RESET) for client in self.listening}


def _told(got: list[str], id_: str) -> bool:
    """Whether a reset stands where the message is missing: nothing later came before it."""
    for item in got:
        if item == RESET:
            return True
        if key(item) > key(id_):
            return False
    return False


async def outage(  # noqa: PLR0913 - how many of each
    processes: Sequence[Process],
    redis: Redis,
    start: Callable[[], None],
    *,
    rooms: int,
    clients: int,
    messages: int,
) -> Outage:
    """Kill Redis when half of the messages are confirmed, and `start` it half a second later."""
    ended = asyncio.Event()
    slow, failed = [0.0], [0]

    async with aiohttp.ClientSession() as session:
        listening = await crowd(processes, rooms, clients)
        senders = Senders(session, processes)
        confirmed = 0

        async def send(number: int) -> None:
            nonlocal confirmed
            while confirmed < messages:
                taken = await senders.send(f"room-{number % rooms}")
                confirmed += taken is not None
                await asyncio.sleep(0 if taken else 0.02)

        async def other_routes(process: Process) -> None:
            while not ended.is_set():
                begun = time.monotonic()
                url, body = f"{process.url}/api/v1/stream-tickets", {"path": "/x"}
                async with session.post(url, json=body, headers=BEARER) as response:
                    failed[0] += response.status != 200
                slow[0] = max(slow[0], time.monotonic() - begun)
                await asyncio.sleep(0.01)

        others = [asyncio.create_task(other_routes(process)) for process in processes]
        sending = [asyncio.create_task(send(number)) for number in range(8)]
        await until(lambda: confirmed >= messages // 2, 120)
        redis.kill()
        await until(lambda: senders.refused > 0)
        await asyncio.sleep(0.5)  # how long Redis is away
        before = confirmed
        start()
        begun = time.monotonic()
        await until(lambda: confirmed > before)
        recovered = time.monotonic() - begun
        await asyncio.gather(*sending)
        # Whoever is connected gets one more message, after which nothing is under way.
        last = {room: await senders.send(room) for room in senders.acknowledged}
        with suppress(TimeoutError):
            await until(lambda: all(last[client.room] in client.got for client in listening))
        ended.set()
        await asyncio.gather(*others)
        assert not any(client.closed for client in listening)
        for client in listening:
            client.transport.abort()
    return Outage(senders.acknowledged, listening, senders.refused, recovered, slow[0], failed[0])


Check = Callable[[list[Process], Redis], Awaitable[None]]


async def with_redis(
    folder: Path, python: Path, count: int, data: Path, check: Check, *options: str
) -> None:
    """Run the check against so many processes around a Redis that is started with `options`."""
    redis = Redis(data)
    redis.start(*options)
    try:
        async with running(folder, python, count, redis.url) as processes:
            await check(processes, redis)
    finally:
        redis.kill()
