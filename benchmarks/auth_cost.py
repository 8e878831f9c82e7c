"""What a bearer token costs: server CPU per request, beyond a public route of the same handler.

    python benchmarks/auth_cost.py PATH_OF_A_GENERATED_SERVICE

Run it with the Python of an environment that has the service's packages. The server is a process
of its own: the service's whole stack, request log included, with one trivial handler added twice,
once public and once for any valid token. Rows are visited in a new random order each round, and
compared within the round: the medians of differences and ratios are what to look at. The CPU is
the server's own process time, user and system. Tokens are HS256; a cached row hits the cache each
time, an uncached row never (each token is sent once).
"""

import asyncio
import importlib
import json
import os
import random
import secrets
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROUNDS, REQUESTS, CONNECTIONS = 40, 500, 16
BAR = 5.0  # microseconds that a cached token may cost
SETTINGS = {"APP_ENV": "prod", "APP_JWT_ISSUER": "benchmark", "APP_JWT_AUDIENCE": "benchmark"}


def package_of(service: Path) -> str:
    (found,) = (service / "src").glob("*/app.py")
    return found.parent.name


async def serve(package: str) -> None:
    """The service with the handlers of the benchmark; prints its port."""
    from aiohttp import web  # noqa: PLC0415  # the generator needs none of it

    create_app = importlib.import_module(f"{package}.app").create_app
    settings = importlib.import_module(f"{package}.settings").load_settings()
    auth = importlib.import_module(f"{package}.patterns.jwt_auth")

    async def public(_: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def guarded(_: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def cpu(_: web.Request) -> web.Response:
        return web.Response(text=f"{time.process_time():.9f}")

    sink = os.open(os.devnull, os.O_WRONLY)
    app = create_app(settings, lambda line: os.write(sink, line))
    app.router.add_get("/bench/public", auth.public(public))
    app.router.add_get("/bench/guarded", auth.scope()(guarded))
    app.router.add_get("/bench/cpu", auth.public(cpu))
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


def tokens(count: int, secret: str) -> list[str]:
    import jwt  # noqa: PLC0415  # a server does not sign

    now = int(time.time())
    claims = {"iss": "benchmark", "aud": "benchmark", "iat": now, "exp": now + 3600}
    return [
        jwt.encode(claims | {"sub": "ann", "jti": f"{i:08}"}, secret, headers={"typ": "at+jwt"})
        for i in range(count)
    ]


class Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def get(self, path: str, token: str | None) -> bytes:
        bearer = f"Authorization: Bearer {token}\r\n" if token else ""
        self.writer.write(f"GET {path} HTTP/1.1\r\nHost: b\r\n{bearer}\r\n".encode())
        head = await self.reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200 "):
            raise SystemExit(f"{path}: {head.decode()}")
        length = head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]
        return await self.reader.readexactly(int(length))


async def slice_of(connections: list[Connection], path: str, each: list[str | None]) -> float:
    """Microseconds of the server's CPU for one request of this kind."""
    queue = list(each)

    async def client(connection: Connection) -> None:
        while queue:
            await connection.get(path, queue.pop())

    before = float(await connections[0].get("/bench/cpu", None))
    await asyncio.gather(*(client(connection) for connection in connections))
    after = float(await connections[0].get("/bench/cpu", None))
    return (after - before) / len(each) * 1e6


async def measure(port: int, secret: str) -> dict[str, list[float]]:
    connections = [
        Connection(*await asyncio.open_connection("127.0.0.1", port)) for _ in range(CONNECTIONS)
    ]
    fresh = tokens((ROUNDS + 1) * REQUESTS + 1, secret)
    cached = fresh.pop()
    paths = {"public": "public", "public, with token": "public", "cached": "guarded"}
    taken: dict[str, list[float]] = {name: [] for name in [*paths, "uncached"]}
    for round_number in range(ROUNDS + 1):  # the first warms up
        order = list(taken)
        random.shuffle(order)
        for name in order:
            each: list[str | None] = [None if name == "public" else cached] * REQUESTS
            if name == "uncached":
                each = [fresh.pop() for _ in range(REQUESTS)]
            cost = await slice_of(connections, f"/bench/{paths.get(name, 'guarded')}", each)
            if round_number:
                taken[name].append(cost)
    return taken


def report(taken: dict[str, list[float]]) -> bool:
    print(f"{ROUNDS} rounds of {REQUESTS} requests a row, {CONNECTIONS} connections; CPU in µs\n")
    print("| row | CPU a request | beyond public (quartiles) | ratio | beyond public with token |")
    print("|---|---|---|---|---|")
    beyond = 0.0
    for name, costs in taken.items():
        pairs = list(zip(costs, taken["public"], taken["public, with token"], strict=True))
        more = [cost - public for cost, public, _ in pairs]
        low, middle, high = statistics.quantiles(more, n=4) if name != "public" else (0, 0, 0)
        ratio = statistics.median(cost / public for cost, public, _ in pairs)
        same = statistics.median(cost - public for cost, _, public in pairs)
        beyond = middle if name == "cached" else beyond
        cells = f"{middle:+.1f} ({low:+.1f} to {high:+.1f}) | {ratio:.2f} | {same:+.1f}"
        print(f"| {name} | {statistics.median(costs):.1f} | {cells} |")
    print(f"\na cached token costs {beyond:.1f} µs; the bar is {BAR:.0f} µs")
    print(json.dumps({name: [round(cost, 2) for cost in costs] for name, costs in taken.items()}))
    return beyond <= BAR


def main(arguments: list[str]) -> int:
    if arguments[0] == "--serve":
        asyncio.run(serve(arguments[1]))
        return 0
    service, secret = Path(arguments[0]).resolve(), secrets.token_hex(32)
    clean = {k: v for k, v in os.environ.items() if not k.startswith("APP_")}
    given = clean | SETTINGS | {"APP_JWT_SECRET": secret, "PYTHONPATH": str(service / "src")}
    command = [sys.executable, __file__, "--serve", package_of(service)]
    with subprocess.Popen(command, env=given, stdout=subprocess.PIPE, text=True) as server:
        try:
            port = server.stdout.readline() if server.stdout is not None else ""
            taken = asyncio.run(measure(int(port), secret))
        finally:
            server.kill()
    return 0 if report(taken) else 1


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1:]))
