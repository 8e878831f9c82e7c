"""Streams: what one bad client costs the others, and what thousands of good ones cost.

    python benchmarks/streams.py PATH_OF_GENERATED_SERVICE [--quick] [--only fanout]

Run it with the Python of the service's environment; it needs nothing else. The service is its own
process with the settings of production. Each promise is a line with its figure and its bar, and the
exit code is 1 when one is missed.

fanout    1,000 WebSockets in a room, 50 of which do not read: how late the others get a message,
          against the same room with none stalled; what a stalled client costs until it is dropped
resume    a client of events whose connection is cut 200 times while 5,000 messages pass, and one
          that comes back too late, again and again
idle      10,000 idle streams: how long a GET takes, against a second service that has none, asked
          in turns; memory of an idle WebSocket and of an idle SSE stream. Beside each figure stands
          what bare aiohttp takes in the same run, without middlewares, limits, history or drain
ugly      1,000 clients that come and go in every bad manner, and what is left of them
"""

import argparse
import asyncio
import contextlib
import os
import random
import re
import resource
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from statistics import median

import aiohttp
from aiohttp import web
from clients import (
    ROOMS,
    SECRET,
    Peer,
    Service,
    check,
    peer,
    percentile,
    raw,
    request,
    reset,
    running,
    vanish,
)

STAMP = re.compile(rb'"text":"(\d+) ')
LARGE_FRAME = b"\x81\xff" + (2**40).to_bytes(8, "big") + b"\0\0\0\0"


async def open_peers(
    service: Service, path: str, count: int, data: Callable[[bytes], None], *, websocket: bool
) -> list[Peer]:
    """So many clients, at most 1,000 a second: what they cause later is spread as in life."""
    opened: list[Peer] = []
    for _ in range(0, count, 50):
        begun = time.monotonic()
        few = range(min(50, count - len(opened)))
        opened += await asyncio.gather(
            *(peer(service, path, data, websocket=websocket) for _ in few)
        )
        await asyncio.sleep(max(0.0, 0.05 - (time.monotonic() - begun)))
    return opened


# fanout


async def fanout(folder: Path, quick: bool) -> bool:
    clients, bad, messages = (200, 10, 380) if quick else (1000, 50, 380)
    runs = 1 if quick else 2
    plain: list[tuple[float, float, float]] = []
    stalled: list[tuple[float, float, float]] = []
    for _ in range(runs):
        plain.append(await room(folder, clients, 0, messages))
        stalled.append(await room(folder, clients, bad, messages))
    without, beside = median(r[0] for r in plain), median(r[0] for r in stalled)
    ratio = beside / without
    memory = (median(r[1] for r in stalled) - median(r[1] for r in plain)) / bad
    dropped = {r[2] for r in stalled}
    print(
        f"       p99 {without * 1000:.1f} ms with none stalled, {beside * 1000:.1f} ms beside them"
    )
    return all(
        [
            check(
                f"fanout: p99 beside {bad} of {clients} stalled, ratio",
                f"{ratio:.2f}",
                "<= 1.5",
                ratio <= 1.5,
            ),
            check(
                "fanout: stalled clients dropped and counted", dropped, f"{bad}", dropped == {bad}
            ),
            check(
                "fanout: memory of a stalled client, KiB",
                f"{memory / 1024:.0f}",
                "<= 256",
                memory <= 256 * 1024,
            ),
        ]
    )


async def room(folder: Path, clients: int, bad: int, messages: int) -> tuple[float, float, float]:
    """p99 of the delivery in seconds, memory before the first is dropped, how many were."""
    delays: list[float] = []

    def received(data: bytes) -> None:
        now = time.monotonic_ns()
        delays.extend((now - int(at[1])) / 1e9 for at in STAMP.finditer(data))

    path = f"{ROOMS}/lobby/ws"
    async with running(folder) as service, aiohttp.ClientSession() as session:
        peers = await open_peers(service, path, clients - bad, received, websocket=True)
        held = [raw(service, path, small=True, websocket=True) for _ in range(bad)]
        memory, padding = 0.0, "x" * 1950
        due = time.monotonic()
        for n in range(messages):
            due += 0.04
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            await service.send(session, "lobby", f"{time.monotonic_ns()} {padding}")
            if n == 300:  # the queues of the stalled are about full
                memory = service.memory()
        await asyncio.sleep(0.5)
        numbers = await service.numbers(session)
        dropped = numbers['slow_clients_dropped_total{kind="ws"}']
        assert len(delays) >= (clients - bad) * messages * 0.99, len(delays)
        for each in peers:
            each.transport.abort()
        for connection in held:
            connection.close()
    return percentile(delays, 0.99), memory, dropped


# resume


async def resume(folder: Path, quick: bool) -> bool:
    kills, messages = (30, 800) if quick else (200, 5000)
    async with running(folder) as service, aiohttp.ClientSession() as session:
        sent, got, cut = await interrupted(service, session, messages, kills, 0.0)
    passed = [
        check("resume: connections cut", cut, f">= {kills}", cut >= kills),
        check("resume: each id once, in order", got == sent, f"{len(sent)} ids", got == sent),
    ]
    async with (
        running(folder, {"APP_HISTORY": "20"}) as service,
        aiohttp.ClientSession() as session,
    ):
        sent, got, cut = await interrupted(service, session, messages // 5, 20, 0.1)
    honest = gaps_are_told(sent, got)
    told = got.count("reset")
    return all(
        [
            *passed,
            check("resume: came back too late, resets", f"{told} ({cut} cuts)", "> 0", told > 0),
            check("resume: each gap is told by a reset", honest, "True", honest),
        ]
    )


async def interrupted(
    service: Service, session: aiohttp.ClientSession, messages: int, kills: int, pause: float
) -> tuple[list[str], list[str], int]:
    """The ids that were sent, those that were received (and `reset`), how often it was cut."""
    sent: list[str] = []
    got: list[str] = []
    cuts = 0
    opened = asyncio.Event()

    async def publish() -> None:
        await opened.wait()
        for n in range(messages):
            sent.append(await service.send(session, "lobby", str(n)))

    async with asyncio.TaskGroup() as group:
        publishing = group.create_task(publish())
        last = ""

        def complete() -> bool:
            return publishing.done() and got[-1:] == sent[-1:]

        while not complete():
            size = random.randint(1, max(2, 150 * messages // kills)) if cuts < kills else 10**9
            last = await read_some(service, last, size, got, opened, complete)
            cuts += 1
            await asyncio.sleep(random.random() * pause)
    return sent, got, cuts


async def read_some(
    service: Service,
    last: str,
    size: int,
    got: list[str],
    opened: asyncio.Event,
    done: Callable[[], bool],
) -> str:
    """Read so many bytes of a stream, wherever that is, and reset the connection; the last id."""
    reader, writer = await asyncio.open_connection(service.host, service.port)
    head = request(service, f"{ROOMS}/lobby/events")[:-2]
    writer.write(head + (f"Last-Event-ID: {last}\r\n".encode() if last else b"") + b"\r\n")
    await reader.readuntil(b"\r\n\r\n")
    data = b""
    while size > 0 and not done():
        try:
            async with asyncio.timeout(0.5):
                more = await reader.read(min(size, 4096))
        except TimeoutError:
            continue
        assert more, "the service has ended the stream"
        size -= len(more)
        data += more
        *blocks, data = data.split(b"\n\n")
        for block in blocks:
            fields = dict(re.findall(rb"^(?:[0-9a-f]+\r\n)?(\w+): ?(.*)$", block, re.MULTILINE))
            last = fields.get(b"id", last.encode()).decode()
            if fields.get(b"event") == b"message":
                got.append(fields[b"id"].decode())
            elif fields.get(b"event") == b"reset":
                got.append("reset")
        if b": open" in b"".join(blocks):
            opened.set()
    reset(writer.get_extra_info("socket").dup())
    writer.transport.abort()
    return last


def gaps_are_told(sent: list[str], got: list[str]) -> bool:
    """Whether `got` is `sent` but for gaps, each of them right before what a `reset` announced."""
    at = 0
    for item in got:
        if item == "reset":
            at = -1
        elif at < 0:
            at = sent.index(item) + 1
        elif sent[at] != item:
            return False
        else:
            at += 1
    kept = [item for item in got if item != "reset"]
    return kept == sorted(set(kept), key=sent.index)


# idle


@contextlib.asynccontextmanager
async def held(service: Service, path: str, count: int, *, websocket: bool) -> AsyncIterator[None]:
    """So many idle clients, in a process of their own, lest they slow down who measures."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        __file__,
        str(service.port),
        "--hold",
        path,
        str(count),
        str(int(websocket)),
        stdin=-1,
        stdout=-1,
        env=os.environ | {"BENCH_SECRET": SECRET.decode()},
    )
    assert process.stdout is not None
    line = await process.stdout.readline()
    assert line == b"ready\n", line
    try:
        yield
    finally:
        process.kill()
        await process.wait()


async def bare() -> None:
    """The same three routes as aiohttp's documentation has them, until the process is killed."""

    async def socket(request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse(heartbeat=30, compress=False)
        await ws.prepare(request)
        async for _ in ws:
            pass
        return ws

    async def events(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        while True:
            await response.write(b": still here\n\n")
            await asyncio.sleep(15)

    async def messages(request: web.Request) -> web.Response:
        return web.json_response({"items": [], "next": None})

    app = web.Application()
    app.router.add_get(f"{ROOMS}/{{room}}/ws", socket)
    app.router.add_get(f"{ROOMS}/{{room}}/events", events)
    app.router.add_get(f"{ROOMS}/{{room}}/messages", messages)
    runner = web.AppRunner(app, access_log=None, keepalive_timeout=75)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


@contextlib.asynccontextmanager
async def running_bare() -> AsyncIterator[Service]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "-", "--bare", stdout=-1
    )
    assert process.stdout is not None
    port = int(await process.stdout.readline())
    try:
        yield Service(process, "127.0.0.1", port, Path())
    finally:
        process.kill()
        await process.wait()


async def hold(port: int, path: str, count: int, websocket: bool) -> None:
    service = Service(None, "127.0.0.1", port, Path())  # type: ignore[arg-type]  # it is another's
    peers = await open_peers(service, path, count, lambda data: None, websocket=websocket)
    print("ready", flush=True)
    await asyncio.wait({each.lost for each in peers}, return_when="FIRST_COMPLETED")
    print(f"       an idle stream was lost: {path}", file=sys.stderr)


class Getter:
    """One keep-alive connection, and the time of each GET on it."""

    def __init__(self, service: Service) -> None:
        self.service, self.times = service, list[float]()

    async def open(self) -> None:
        self.reader, self.writer = await asyncio.open_connection(
            self.service.host, self.service.port
        )

    async def get(self) -> None:
        begun = time.perf_counter()
        self.writer.write(request(self.service, f"{ROOMS}/lobby/messages?limit=1"))
        head = await self.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        await self.reader.readexactly(int(head.lower().split(b"content-length:")[1].split()[0]))
        self.times.append(time.perf_counter() - begun)


async def idle(folder: Path, quick: bool) -> bool:
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    count, seconds = (1000, 3) if quick else (min(10_000, files - 500), 35)
    half = count // 2
    limits = {"APP_MAX_STREAMS": str(count)}
    async with (
        running(folder, limits) as busy,
        running(folder, limits) as calm,
        running_bare() as plain,
        contextlib.AsyncExitStack() as stack,
    ):
        getters = [Getter(busy), Getter(calm), Getter(plain)]
        for getter in getters:
            await getter.open()
            for _ in range(300):
                await getter.get()
            getter.times.clear()
        memory: dict[tuple[int, str], float] = {}
        each = [(s, path) for path in ("ws", "events") for s in (busy, plain)]
        for service, path in each:
            before = service.memory()
            full = f"{ROOMS}/quiet/{path}"
            await stack.enter_async_context(held(service, full, half, websocket=path == "ws"))
            memory[service.port, path] = (service.memory() - before) / half / 1024
        await in_turns(getters, seconds)
    with_, without, bare_with = (percentile(getter.times, 0.99) for getter in getters)
    ratio = with_ / without
    figures = ", ".join(
        f"p{share * 100:g} " + "/".join(f"{percentile(g.times, share) * 1000:.2f}" for g in getters)
        for share in (0.5, 0.9, 0.99, 0.999)
    )
    print(f"       {count} streams (open files allowed: {files}); ms with/without/bare: {figures}")
    print(f"       p99 against bare aiohttp beside as many, ratio {with_ / bare_with:.2f}")
    passed = [
        check(f"idle: p99 of a GET beside {count}, ratio", f"{ratio:.2f}", "<= 1.2", ratio <= 1.2)
    ]
    for path, what, bar in (("ws", "a WebSocket", 18), ("events", "an SSE stream", 14)):
        ours, theirs = memory[busy.port, path], memory[plain.port, path]
        told = f"{ours:.1f} (bare {theirs:.1f}: {ours / theirs:.2f})"
        passed.append(check(f"idle: memory of {what}, KiB", told, f"<= {bar}", ours <= bar))
    return all(passed)


async def in_turns(getters: list[Getter], seconds: float) -> None:
    end, turn = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        turn += 1
        for getter in getters if turn % 2 else reversed(getters):
            await getter.get()
        await asyncio.sleep(0.004)


# ugly


def misbehave(service: Service, manner: int) -> socket.socket | None:
    """Come and go, or come and stay away; what is returned has to be kept open."""
    path, events = f"{ROOMS}/lobby/ws", f"{ROOMS}/lobby/events"
    if manner < 8:
        ws = raw(service, path, websocket=True)
        if manner == 0:
            ws.close()  # FIN without a close frame
        elif manner == 1:
            reset(ws)
        elif manner in (2, 3, 4):  # half of a frame; an unknown opcode; a terabyte is announced
            ws.send((b"\x81\xfe\x10", b"\x8f\x80\0\0\0\0", LARGE_FRAME)[manner - 2])
            reset(ws) if manner == 2 else ws.close()
        elif manner == 5:
            ws.send(b"\x88\x82\0\0\0\0\x03\xe8")  # a close, whose answer is not awaited
            reset(ws)
        elif manner == 6:
            ws.send(b"\x81\x81\0\0\0\0\xff")  # no UTF-8
            ws.close()
        else:
            ws.shutdown(socket.SHUT_WR)
            return ws
    elif manner < 11:
        stream = raw(service, events)
        if manner == 8:
            stream.close()
        elif manner == 9:
            reset(stream)
        else:
            stream.shutdown(socket.SHUT_WR)
            stream.close()
    else:
        half = request(service, path, websocket=True)[: random.randint(5, 300)]
        begun = (
            b"POST %s/lobby/messages HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n"
            b"Authorization: %s\r\nContent-Length: 900\r\n\r\n{"
            % (ROOMS.encode(), service.bearer["Authorization"].encode())
        )
        plain = socket.create_connection((service.host, service.port))
        plain.sendall((b"", half, b"\x16\x03\x01 no HTTP\r\n\r\n", begun)[manner - 11])
        reset(plain) if manner % 2 else plain.close()
    return None


async def ugly(folder: Path, quick: bool) -> bool:
    count, silent = (150, 0) if quick else (1000, 20)
    async with running(folder, bench=True) as service, aiohttp.ClientSession() as session:
        await come_and_go(service, session, 60, 0)
        await settled(service, session, None)
        before = await figures(service, session)
        begun = time.monotonic()
        await come_and_go(service, session, count, silent)
        after = await settled(service, session, before)
        took = time.monotonic() - begun
        alive = await service.send(session, "lobby", "still here")
        complaints = service.complaints()
    for line in complaints[:5]:
        print("      ", line[:300])
    print(f"       {count} clients, {2 * silent} of them without power; settled in {took:.1f} s")
    return all(
        [
            *(
                check(
                    f"ugly: {name} afterwards",
                    after[name],
                    f"{before[name]}",
                    after[name] <= before[name],
                )
                for name in before
            ),
            check("ugly: lines above info", len(complaints), "0", not complaints and bool(alive)),
        ]
    )


async def come_and_go(
    service: Service, session: aiohttp.ClientSession, count: int, silent: int
) -> None:
    loop = asyncio.get_running_loop()
    kept: list[socket.socket] = []
    for n in range(2 * silent):
        path = f"{ROOMS}/lobby/{'ws' if n % 2 else 'events'}"
        opening = partial(raw, service, path, websocket=path.endswith("ws"))
        kept.append(await loop.run_in_executor(None, opening))
        vanish(kept[-1])
    for n in range(count):
        connection = await loop.run_in_executor(None, misbehave, service, n % 15)
        if connection is not None:
            kept.append(connection)
        if n % 10 == 0:
            await service.send(session, "lobby", "hello")
    if silent:
        async with asyncio.timeout(90):
            while any((await streams(service, session)).values()):
                await asyncio.sleep(0.5)
    for connection in kept:
        connection.close()


async def streams(service: Service, session: aiohttp.ClientSession) -> dict[str, int]:
    numbers = await service.numbers(session)
    return {name: int(value) for name, value in numbers.items() if name.startswith("streams_open")}


async def figures(service: Service, session: aiohttp.ClientSession) -> dict[str, int]:
    told = await service.tell(session) | {"open files": service.open_files()}
    return told | await streams(service, session)


async def settled(
    service: Service, session: aiohttp.ClientSession, before: dict[str, int] | None
) -> dict[str, int]:
    deadline = time.monotonic() + 15
    while True:
        now = await figures(service, session)
        quiet = before is not None and all(now[name] <= before[name] for name in before)
        if quiet or time.monotonic() > deadline - (0 if before else 8):
            return now
        await asyncio.sleep(0.2)


async def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--quick", action="store_true", help="fewer clients, shorter times")
    parser.add_argument("--only", choices=["fanout", "resume", "idle", "ugly"])
    parser.add_argument("--hold", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--bare", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.bare:
        await bare()
    if given.hold:
        path, count, websocket = given.hold
        await hold(int(str(given.folder)), path, int(count), websocket == "1")
        return 0
    runs = {"fanout": fanout, "resume": resume, "idle": idle, "ugly": ugly}
    chosen = [run for name, run in runs.items() if given.only in (None, name)]
    return 0 if all([await run(given.folder, given.quick) for run in chosen]) else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
