"""Shutdown: what the clients of the generated service see when its process is told to stop.

    python benchmarks/shutdown.py PATH_OF_GENERATED_SERVICE [--quick]

Run it with the Python of the service's environment; it needs nothing else. The service is
`python -m PACKAGE` with the settings of production; the signals and the sockets are real. Each
promise is a line with its figure and its bar, and the exit code is 1 when one is missed.

idle      nobody there: the exit comes within the delay and half a second
crowd     20 slow requests, 20 uploads in progress, 200 WebSockets (20 do not read while messages
          flow, 20 never answer the close) and 200 SSE streams (20 do not read); by SIGTERM, SIGINT
hostile   peers that vanish without FIN, stall inside an upload, hang in a request, and come late
second    the same, and a second signal
"""

import argparse
import asyncio
import contextlib
import json
import re
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from aiohttp import web
from clients import ROOMS, Service, check, frames, raw, running, vanish

LARGE = "\N{DROPLET}" * 2000  # 8 KiB in UTF-8: what fills a connection soonest
ORDER = "200 503 refused"
GOODBYE = re.compile(rb"retry: \d+\n\n$")


@dataclass(frozen=True)
class Times:
    """Seconds, and how many of each kind of client."""

    delay: float
    timeout: float
    crowd: int  # WebSockets, and as many SSE streams
    bad: int  # of each bad manner; as many slow requests and uploads

    @property
    def budget(self) -> float:
        return self.delay + self.timeout + 2

    @property
    def settings(self) -> dict[str, str]:
        return {
            "APP_DRAIN_DELAY": str(self.delay),
            "APP_SHUTDOWN_TIMEOUT": str(self.timeout),
            "APP_UPSTREAM_TIMEOUT": "60",
        }


FULL = Times(delay=1.5, timeout=6, crowd=200, bad=20)
QUICK = Times(delay=0.5, timeout=3, crowd=40, bad=4)


@dataclass
class Seen:
    """What clients saw, each under the name of its kind."""

    statuses: dict[str, list[int]] = field(default_factory=dict)
    closing: int = 0  # answers of a draining server that said `Connection: close`
    codes: list[int] = field(default_factory=list)
    ends: list[bool] = field(default_factory=list)  # SSE: clean, and after a `retry:`
    ready: list[tuple[float, int]] = field(default_factory=list)  # status, 0 for refused

    def status(self, kind: str, value: int) -> None:
        self.statuses.setdefault(kind, []).append(value)


@contextlib.asynccontextmanager
async def upstream(seconds: float) -> AsyncIterator[str]:
    """An upstream that answers after so long."""

    async def rate(request: web.Request) -> web.Response:
        await asyncio.sleep(seconds)
        answer = {"currency": "EUR", "rate": 1.08, "as_of": "2026-01-01T00:00:00Z"}
        return web.json_response(answer)

    app = web.Application()
    app.router.add_get("/rates/{currency}", rate)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def slow_request(service: Service, session: aiohttp.ClientSession, seen: Seen) -> None:
    try:
        url = f"{service.url}/api/v1/rates/EUR"
        async with session.get(url, headers=service.bearer) as response:
            await response.json()
            seen.status("slow", response.status)
            seen.closing += response.headers.get("Connection") == "close"
    except (aiohttp.ClientError, OSError):
        seen.status("slow", 0)


async def upload(service: Service, seen: Seen, seconds: float, kind: str = "upload") -> None:
    """A body that comes in drops; it never ends when `seconds` is negative."""
    body = json.dumps({"text": "x" * 1500}).encode()
    reader, writer = await asyncio.open_connection(service.host, service.port)
    with contextlib.suppress(ConnectionError):
        writer.write(
            f"POST {ROOMS}/up/messages HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n"
            f"Authorization: {service.bearer['Authorization']}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
        )
        for n in range(20):
            writer.write(body[n * len(body) // 20 : (n + 1) * len(body) // 20])
            if seconds < 0:
                break
            await asyncio.sleep(seconds / 20)
    answer = b""
    with contextlib.suppress(ConnectionError):
        answer = await reader.read()
    seen.status(kind, int(answer.split()[1]) if answer else 0)
    writer.close()


async def socket_client(service: Service, session: aiohttp.ClientSession, seen: Seen) -> None:
    url = f"{service.url}{ROOMS}/live/ws"
    async with session.ws_connect(url, headers=service.bearer, max_msg_size=0) as ws:
        seen.status("ws", 101)
        async for _ in ws:
            pass
        seen.codes.append(ws.close_code or 0)


async def mute_socket(service: Service, seen: Seen) -> None:
    """Reads, and never answers the close."""
    connection = raw(service, f"{ROOMS}/live/ws", websocket=True)
    seen.status("mute", 101)
    loop, data = asyncio.get_running_loop(), b""
    with contextlib.suppress(ConnectionError):
        while more := await loop.sock_recv(connection, 65536):
            data += more
    codes = [int.from_bytes(payload[:2], "big") for code, payload in frames(data) if code == 8]
    seen.codes += codes or [0]
    connection.close()


async def events_client(service: Service, session: aiohttp.ClientSession, seen: Seen) -> None:
    tail = b""
    try:
        url = f"{service.url}{ROOMS}/live/events"
        async with session.get(url, headers=service.bearer) as response:
            seen.status("sse", response.status)
            async for chunk in response.content.iter_any():
                tail = (tail + chunk)[-100:]
        seen.ends.append(GOODBYE.search(tail) is not None)
    except (aiohttp.ClientError, OSError):
        seen.ends.append(False)


async def watch_readiness(service: Service, seen: Seen) -> None:
    """A new connection each time, as a balancer's probe; until one is refused."""
    while True:
        status = 0
        try:
            reader, writer = await asyncio.open_connection(service.host, service.port)
            writer.write(b"GET /readyz HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
            status = int((await reader.read()).split()[1])
            writer.close()
        except ConnectionRefusedError:
            pass
        except (ConnectionError, IndexError):
            status = -1
        seen.ready.append((time.monotonic(), status))
        if status == 0:
            return
        await asyncio.sleep(0.02)


async def chatter(service: Service, session: aiohttp.ClientSession) -> None:
    """Messages flow until nobody takes them any more."""
    with contextlib.suppress(aiohttp.ClientError, OSError):
        while True:
            await service.send(session, "live", "hello")
            await asyncio.sleep(0.2)


async def stalled(
    service: Service, session: aiohttp.ClientSession, count: int
) -> list[socket.socket]:
    """As many WebSockets and SSE streams that do not read, and messages that stand before them."""
    held = [raw(service, f"{ROOMS}/full/ws", small=True, websocket=True) for _ in range(count)]
    held += [raw(service, f"{ROOMS}/full/events", small=True) for _ in range(count)]
    for _ in range(100):
        await service.send(session, "full", LARGE)
    return held


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


async def crowd(folder: Path, times: Times, number: signal.Signals) -> bool:
    seen, late, long = Seen(), Seen(), times.delay + times.timeout * 0.5
    async with (
        upstream(long) as url,
        running(folder, times.settings | {"APP_UPSTREAM_URL": url}) as service,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
        asyncio.TaskGroup() as group,
    ):
        held = await stalled(service, session, times.bad)
        for _ in range(times.crowd - 2 * times.bad):
            group.create_task(socket_client(service, session, seen))
        for _ in range(times.bad):
            group.create_task(mute_socket(service, seen))
        for _ in range(times.crowd - times.bad):
            group.create_task(events_client(service, session, seen))
        open_ = 2 * times.crowd - 2 * times.bad
        await until(lambda: sum(len(s) for s in seen.statuses.values()) == open_)
        group.create_task(chatter(service, session))
        for _ in range(times.bad):
            group.create_task(slow_request(service, session, seen))
            group.create_task(upload(service, seen, long))
        group.create_task(watch_readiness(service, seen))
        await asyncio.sleep(0.5)
        dropped = sum(
            value for name, value in (await service.numbers(session)).items() if "dropped" in name
        )
        begun = time.monotonic()
        service.signal(number)
        await asyncio.sleep(times.delay / 2)
        # Who comes during the delay is served, and sent away with the others.
        group.create_task(socket_client(service, session, late))
        group.create_task(events_client(service, session, late))
        code = await service.process.wait()
        took = time.monotonic() - begun
        for connection in held:
            connection.close()
        after = quiet(number.name, service)
    name, bad, good = number.name, times.bad, times.crowd - times.bad
    slow, uploads = (seen.statuses[kind].count(ok) for kind, ok in (("slow", 200), ("upload", 201)))
    readiness = order([status for _, status in seen.ready])
    codes, ends, came = seen.codes.count(1001), sum(seen.ends), (late.codes, late.ends)
    there, closing = 2 * bad - int(dropped), seen.closing
    return all(
        [
            check(f"{name}: slow requests answered 200", slow, f"{bad}", slow == bad),
            check(f"{name}: ... with Connection: close", closing, f"{bad}", closing == bad),
            check(f"{name}: uploads answered 201", uploads, f"{bad}", uploads == bad),
            check(f"{name}: stalled streams not dropped before", there, f"{2 * bad}", not dropped),
            check(f"{name}: WebSockets that saw 1001", codes, f">= {good}", codes >= good),
            check(f"{name}: SSE ended cleanly after retry:", ends, f"{good}", ends == good),
            check(f"{name}: came late", came, "([1001], [True])", came == ([1001], [True])),
            check(f"{name}: readiness", readiness, ORDER, readiness == ORDER),
            check(f"{name}: exit code", code, "0", code == 0),
            check(f"{name}: seconds", f"{took:.2f}", f"<= {times.budget}", took <= times.budget),
            *after,
        ]
    )


def order(statuses: list[int]) -> str:
    told = [s for n, s in enumerate(statuses) if n == 0 or s != statuses[n - 1]]
    return " ".join({0: "refused", -1: "broken"}.get(s, str(s)) for s in told)


def quiet(name: str, service: Service) -> list[bool]:
    """What the process wrote: nothing above info, and at the very end that it has stopped."""
    complaints, output = service.complaints(), service.output.read_text()
    for line in complaints[:5]:
        print("      ", line[:300])
    bad = [word for word in ("Task was destroyed", "Unclosed", "Traceback") if word in output]
    stopped = '"msg":"stopped"' in output
    return [
        check(f"{name}: lines above info", len(complaints), "0", not complaints),
        check(f"{name}: Task was destroyed, Unclosed, Traceback", bad, "[]", not bad),
        check(f"{name}: contexts closed", stopped, "True", stopped),
    ]


async def idle(folder: Path, times: Times) -> bool:
    async with running(folder, times.settings) as service, aiohttp.ClientSession() as session:
        await service.numbers(session)  # one connection stays open, and idle
        begun = time.monotonic()
        service.signal()
        code = await service.process.wait()
        took, bar = time.monotonic() - begun, times.delay + 0.5
    return all(
        [
            check("idle: exit code", code, "0", code == 0),
            check("idle: seconds to the exit", f"{took:.2f}", f"<= {bar}", took <= bar),
        ]
    )


async def hostile(folder: Path, times: Times, *, second: bool) -> bool:
    """Peers that the timeout has to end, and good ones among them that shall not notice."""
    seen, name = Seen(), "second signal" if second else "hostile"
    async with (
        upstream(60) as url,
        running(folder, times.settings | {"APP_UPSTREAM_URL": url}) as service,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
        asyncio.TaskGroup() as group,
    ):
        held = await stalled(service, session, times.bad)
        for path, websocket in ((f"{ROOMS}/live/ws", True), (f"{ROOMS}/live/events", False)):
            gone = [raw(service, path, websocket=websocket) for _ in range(times.bad)]
            for connection in gone:
                vanish(connection)
            held += gone
        for _ in range(times.bad):
            group.create_task(slow_request(service, session, seen))
            group.create_task(upload(service, seen, -1, "stuck upload"))
        group.create_task(upload(service, seen, 1.0))
        group.create_task(socket_client(service, session, seen))
        group.create_task(events_client(service, session, seen))
        await asyncio.sleep(0.5)
        await service.send(session, "live", "into the void")
        begun = time.monotonic()
        service.signal()
        if second:
            await asyncio.sleep(times.delay + 0.3)
            begun = time.monotonic()
            service.signal()
        code = await service.process.wait()
        took = time.monotonic() - begun
        for connection in held:
            connection.close()
        after = quiet(name, service)
    budget = 1.0 if second else times.budget
    ends, uploads = (seen.codes, seen.ends), seen.statuses["upload"]
    good = ends == ([1001], [True])
    return all(
        [
            check(f"{name}: exit code", code, "0", code == 0),
            check(f"{name}: seconds to the exit", f"{took:.2f}", f"<= {budget}", took <= budget),
            check(f"{name}: the good WebSocket and SSE", ends, "([1001], [True])", good),
            check(f"{name}: the good upload", uploads, "[201]", second or uploads == [201]),
            *after,
        ]
    )


async def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--quick", action="store_true", help="fewer clients, shorter times")
    parser.add_argument("--only", choices=["idle", "crowd", "hostile", "second"])
    given = parser.parse_args()
    folder, times = given.folder, QUICK if given.quick else FULL
    runs: dict[str, Callable[[], Awaitable[bool]]] = {
        "idle": lambda: idle(folder, times),
        "crowd": lambda: crowd(folder, times, signal.SIGTERM),
        "crowd SIGINT": lambda: crowd(folder, times, signal.SIGINT),
        "hostile": lambda: hostile(folder, times, second=False),
        "second": lambda: hostile(folder, times, second=True),
    }
    results = [await run() for name, run in runs.items() if name.startswith(given.only or "")]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
