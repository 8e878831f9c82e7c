"""What a request costs: server CPU, the generated service beside bare aiohttp.

    python benchmarks/request_cost.py PATH_OF_A_GENERATED_SERVICE [PATH_OF_ANOTHER ...]

Run it with the Python of an environment that has the service's packages. Each server is a process
of its own on one core, the service as `python -m PACKAGE` runs it: production settings, the request
log written to a file, metrics, the adaptive limit. Bare is an aiohttp application without any of
it, that reads the body and answers fixed bytes of the same kind; its call to the upstream relays
the bytes. "Bare, our session" does that through the service's ClientSession, with its tracing,
retries and breaker: the price of the call alone. The client is on the other core: raw sockets,
requests made beforehand, so that what is measured is the server. Rows are visited in a new random
order each round, and compared within the round; CPU is the process's own, user and system, of all
its threads. Of several services, one generated with `example_api=no` has another GET.
"""

import argparse
import asyncio
import json
import os
import random
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from clients import SECRET, token

TEXT = "A message of an ordinary length, as people write them to each other all day long. "
MESSAGE = json.dumps({"text": (TEXT * 4)[:280]}).encode()
ANSWER = json.dumps(
    {"id": "1767225600000-0", "room": "lobby", "author": "bench", "text": (TEXT * 4)[:280]}
).encode()
SMALL = b'{"sub":"bench","scopes":["rates:read","rooms:read","rooms:write"]}'
RATE = b'{"currency":"EUR","rate":1.08,"as_of":"2026-01-01T00:00:00Z"}'
BEARER = f"Authorization: Bearer {token()}\r\n"
JSON = f"Content-Type: application/json\r\nContent-Length: {len(MESSAGE)}\r\n"
ROOM = "/api/v1/rooms/lobby/messages"
SESSION = "bare, our session"
CORES = sorted(os.sched_getaffinity(0))


@dataclass(frozen=True)
class Case:
    """One request, the same for the service and for bare aiohttp, and the bar for the ratio."""

    bar: float
    status: int
    line: str
    headers: str = ""
    body: bytes = b""

    @property
    def request(self) -> bytes:
        return f"{self.line} HTTP/1.1\r\nHost: bench\r\n{self.headers}\r\n".encode() + self.body


CASES = {
    "POST, auth, validation": Case(2.0, 201, f"POST {ROOM}", BEARER + JSON, MESSAGE),
    "GET, auth, page of one": Case(1.5, 200, f"GET {ROOM}?limit=1", BEARER),
    "GET, auth, whoami": Case(1.5, 200, "GET /api/v1/whoami", BEARER),
    "GET, public": Case(1.5, 200, "GET /livez"),
    "GET, auth, upstream call": Case(1 / 0.8, 200, "GET /api/v1/rates/EUR", BEARER),
}


async def bare(upstream: str, folder: str = "") -> None:
    """What nobody can go below with aiohttp: no middleware, no signal, no model.

    Calls go through a session of the service in `folder`, if one is given, else through a bare one.
    """
    from aiohttp import ClientSession, web  # noqa: PLC0415  # the client needs none of it

    async def post(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(body=ANSWER, status=201, content_type="application/json")

    async def get(_: web.Request) -> web.Response:
        return web.Response(body=SMALL, content_type="application/json")

    async def rate(request: web.Request) -> web.Response:
        async with session.get(f"{upstream}/rates/{request.match_info['currency']}") as answer:
            body = await answer.read()
        return web.Response(body=body, content_type="application/json")

    app = web.Application()
    app.router.add_post("/api/v1/rooms/{room}/messages", post)
    app.router.add_get("/api/v1/rooms/{room}/messages", get)
    app.router.add_get("/api/v1/whoami", get)
    app.router.add_get("/livez", get)
    app.router.add_get("/api/v1/rates/{currency}", rate)
    async with service_session(Path(folder), app) if folder else ClientSession() as session:
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
        await asyncio.Event().wait()


@asynccontextmanager
async def service_session(folder: Path, app: Any) -> AsyncIterator[Any]:
    """The shared session, as the service's `app.py` makes it."""
    sys.path.insert(0, str(folder.resolve() / "src"))
    part = partial(import_module, package=package_of(folder))
    client = part(".patterns.client_session")
    middlewares = part(".patterns.retries").Retries(), part(".patterns.breaker").CircuitBreaker()
    headers = part(".patterns.request_id").outbound_headers
    make = client.client_session(client.ClientLimits(), headers=headers, middlewares=middlewares)
    async with make(app):
        yield app[client.SESSION]


class Rates(asyncio.Protocol):
    """The upstream, as cheap as it can be: it shares the client's core."""

    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(RATE)}\r\n"
    answer = head.encode() + b"\r\n" + RATE

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        assert isinstance(self.transport, asyncio.Transport)
        if data.endswith(b"\r\n\r\n"):
            self.transport.write(self.answer)


async def upstream() -> None:
    server = await asyncio.get_running_loop().create_server(Rates, "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


@dataclass(frozen=True)
class Server:
    """A server on one core, and what it has used of it."""

    name: str
    pid: int
    port: int

    def cpu(self) -> float:
        """Seconds, user and system: the process's own clock, clock_getcpuclockid(3)."""
        return time.clock_gettime((~self.pid << 3) | 2)


@contextmanager
def running(name: str, command: list[str], core: int, **env: str) -> Iterator[Server]:
    """The process, once it has said where it listens; its output goes to a file, as a log would."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("APP_")}
    with tempfile.TemporaryDirectory() as cwd:
        output = Path(cwd) / "output"
        with output.open("ab") as file:
            process = subprocess.Popen(command, env=clean | env, cwd=cwd, stdout=file, stderr=file)
            os.sched_setaffinity(process.pid, {core})
        try:
            while b"http://" not in (said := output.read_bytes()):
                if process.poll() is not None:
                    raise SystemExit(said.decode())
                time.sleep(0.05)
            port = said.split(b"http://")[1].split(b":")[1].split(b'"')[0].split(b"\n")[0]
            yield Server(name, process.pid, int(port))
        finally:
            process.kill()
            process.wait()


def service_environment(folder: Path, rates: str) -> dict[str, str]:
    """As it is shipped: nothing is set but what production requires, and the upstream."""
    given = {
        "PYTHONPATH": str(folder.resolve() / "src"),
        "APP_HOST": "127.0.0.1",
        "APP_PORT": "0",
        "APP_JWT_SECRET": SECRET.decode(),
        "APP_JWT_ISSUER": "bench",
        "APP_JWT_AUDIENCE": "bench",
    }
    has_rates = list(folder.glob("src/*/api/rates.py"))
    return given | ({"APP_UPSTREAM_URL": rates} if has_rates else {})


def package_of(folder: Path) -> str:
    (found,) = folder.glob("src/*/app.py")
    return found.parent.name


def connections(port: int, count: int) -> list[socket.socket]:
    return [socket.create_connection(("127.0.0.1", port)) for _ in range(count)]


def answer(connection: socket.socket) -> tuple[int, bytes]:
    """Status and body of the next answer."""
    data = b""
    while b"\r\n\r\n" not in data:
        if not (more := connection.recv(65536)):
            raise SystemExit(f"closed after {data!r}")
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    while len(body) < length:
        body += connection.recv(65536)
    return int(head[9:12]), body


def ask(server: Server, case: Case) -> tuple[int, bytes]:
    (connection,) = connections(server.port, 1)
    with connection:
        connection.sendall(case.request)
        return answer(connection)


def cost(server: Server, case: Case, sockets: list[socket.socket], seconds: float) -> float | None:
    """Microseconds of the server's CPU for one request, with each connection always busy.

    None when the service has refused one: a refusal costs less, and the row has to be repeated.
    """
    request, statuses = case.request, Counter[int]()
    with selectors.DefaultSelector() as selector:
        for connection in sockets:
            selector.register(connection, selectors.EVENT_READ)
            connection.sendall(request)
        before, until = server.cpu(), time.monotonic() + seconds
        while time.monotonic() < until:
            # Polled: the kernel charges the waking of a client that sleeps to the server's write.
            for key, _ in selector.select(0):
                connection = key.fileobj  # type: ignore[assignment]  # it is what was registered
                statuses[answer(connection)[0]] += 1
                connection.sendall(request)
        for connection in sockets:
            statuses[answer(connection)[0]] += 1
        used = server.cpu() - before
    refused = statuses.pop(503, 0)  # another program had the core: the limit follows the loop
    if statuses.keys() - {case.status}:
        raise SystemExit(f"{server.name}, {case.line}: {statuses}")
    return None if refused else used / statuses.total() * 1e6


Taken = dict[tuple[str, str], list[float]]


def measure(servers: list[Server], rounds: int, seconds: float, count: int) -> Taken:
    """The costs of each case that a server has, by server and case, a value for each round."""
    taken: Taken = {
        (server.name, name): []
        for server in servers
        for name, case in CASES.items()
        if (server.name != SESSION or "upstream" in name) and ask(server, case)[0] == case.status
    }
    by_name = {server.name: server for server in servers}
    open_ = {server.name: connections(server.port, count) for server in servers}
    for number in range(rounds + 1):  # the first warms up
        for name, case in random.sample(sorted(taken), len(taken)):
            spent = None
            while spent is None:
                spent = cost(
                    by_name[name],
                    CASES[case],
                    open_[name],
                    seconds if number else min(seconds, 0.5),
                )
            if number:
                taken[name, case].append(spent)
    return taken


def report(taken: Taken, rounds: int, count: int) -> bool:
    print(f"{rounds} rounds, {count} connections; CPU in µs a request, medians\n")
    print("| request | server | CPU | beyond bare | x bare (min to max) | bar |")
    print("|---|---|---|---|---|---|")
    passed = True
    for case, (server, costs) in ((c, (s, v)) for (s, c), v in taken.items() if s != "bare"):
        pairs = list(zip(costs, taken["bare", case], strict=True))
        ratios = [one / other for one, other in pairs]
        more, ratio = statistics.median(one - other for one, other in pairs), median(ratios)
        passed = passed and ratio <= CASES[case].bar
        spread = f"{ratio:.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        mine = f"{case} | {server} | {median(costs):.1f} | {more:+.1f} | {spread}"
        print(f"| {mine} | {CASES[case].bar:.2f} |")
    print(json.dumps({f"{s}: {c}": [round(v, 2) for v in vs] for (s, c), vs in taken.items()}))
    return passed


def median(values: list[float]) -> float:
    return statistics.median(values)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("services", type=Path, nargs="+")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--connections", type=int, default=32)
    given = parser.parse_args()
    os.sched_setaffinity(0, {CORES[-1]})
    with ExitStack() as stack:
        us = [sys.executable, __file__]
        rates = stack.enter_context(running("upstream", [*us, "--upstream"], CORES[-1]))
        url = f"http://127.0.0.1:{rates.port}"
        servers = [stack.enter_context(running("bare", [*us, "--bare", url], CORES[0]))]
        ours = [*us, "--bare", url, str(given.services[0].resolve())]
        servers.append(stack.enter_context(running(SESSION, ours, CORES[0])))
        for folder in given.services:
            command = [sys.executable, "-m", package_of(folder)]
            env = service_environment(folder, url)
            servers.append(stack.enter_context(running(folder.name, command, CORES[0], **env)))
        taken = measure(servers, given.rounds, given.seconds, given.connections)
    return 0 if report(taken, given.rounds, given.connections) else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["--bare"]:
        asyncio.run(bare(*sys.argv[2:]))
    elif sys.argv[1:2] == ["--upstream"]:
        asyncio.run(upstream())
    else:
        sys.exit(main())
