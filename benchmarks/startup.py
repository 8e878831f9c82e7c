"""What the service costs before and between requests: import, memory, and how both costs grow.

    python benchmarks/startup.py PATH_OF_A_GENERATED_SERVICE

Run it with the Python of an environment that has the service's packages. Five tables: CPU to import
the service beside its three libraries, resident memory when idle, memory a kept connection, CPU a
request with 1 to 1,000 connections, and CPU a request with 10 to 1,000 routes more. The service
runs as it is shipped, as in `request_cost.py`, with bare aiohttp beside it in the same round.
"""

import argparse
import asyncio
import os
import random
import resource
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path

from request_cost import CASES, CORES, Server, answer, bare, cost, package_of, running
from request_cost import service_environment as environment

LIBRARIES = "import aiohttp.web, pydantic, jwt"
IMPORTS = {
    "the three": LIBRARIES,
    # `import pydantic` alone loads next to nothing: most of it comes with the first model.
    "the three and one model": f"{LIBRARIES}\nclass Model(pydantic.BaseModel): text: str",
    "the service": "{libraries}\nimport {package}.__main__",
}
CLOCK = "import time\n{}\nprint(time.process_time())"
GET = CASES["GET, public"]
CONNECTIONS, ROUTES = (1, 10, 100, 1000), (10, 100, 1000)


def median(values: list[float]) -> float:
    return statistics.median(values)


def imports(folder: Path, rounds: int) -> None:
    """CPU from the start of the interpreter to the end of the imports, each in a fresh process."""
    taken: dict[str, list[float]] = {name: [] for name in IMPORTS}
    env = os.environ | {"PYTHONPATH": str(folder.resolve() / "src")}
    for number in range(rounds + 1):  # the first compiles
        for name in random.sample(sorted(taken), len(taken)):
            code = IMPORTS[name].format(libraries=LIBRARIES, package=package_of(folder))
            command = [sys.executable, "-c", CLOCK.format(code)]
            seconds = float(subprocess.check_output(command, env=env))
            if number:
                taken[name].append(seconds * 1000)
    print("\n| import | CPU ms | x the three (min to max) |\n|---|---|---|")
    for name, values in taken.items():
        ratios = [one / other for one, other in zip(values, taken["the three"], strict=True)]
        spread = f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"| {name} | {median(values):.0f} | {spread} |")


def resident(server: Server) -> float:
    """KiB of physical memory."""
    status = Path(f"/proc/{server.pid}/status").read_text()
    return float(status.split("VmRSS:")[1].split()[0])


@contextmanager
def connected(server: Server, count: int) -> Iterator[list[socket.socket]]:
    """Connections that have been answered once and are kept."""
    sockets = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(count)]
    try:
        for connection in sockets:
            connection.sendall(GET.request)
            answer(connection)
        yield sockets
    finally:
        for connection in sockets:
            connection.close()


def memory(servers: list[Server], count: int) -> None:
    print("\n| server | idle MiB | KiB a kept connection |\n|---|---|---|")
    for server in servers:
        idle = resident(server)
        with connected(server, 100):  # what the first connections make once for all
            pass
        time.sleep(0.2)
        before = resident(server)
        with connected(server, count):
            print(
                f"| {server.name} | {idle / 1024:.1f} | {(resident(server) - before) / count:.1f} |"
            )
        time.sleep(0.5)


def grown(servers: list[Server], sizes: tuple[int, ...], rounds: int) -> None:
    """CPU a request for each number of connections, all of them busy."""
    taken: dict[tuple[str, int], list[float]] = {(s.name, n): [] for s in servers for n in sizes}
    with ExitStack() as stack:
        open_ = {s.name: stack.enter_context(connected(s, max(sizes))) for s in servers}
        for _ in range(rounds):
            for server in servers:
                for count in random.sample(sizes, len(sizes)):
                    spent = cost(server, GET, open_[server.name][:count], 0.5)
                    taken[server.name, count].append(spent or float("nan"))
    table("connections", taken, sizes)


def table(what: str, taken: dict[tuple[str, int], list[float]], sizes: tuple[int, ...]) -> None:
    print(f"\n| CPU µs a request, {what}: | {' | '.join(map(str, sizes))} |")
    print("|---|" + "---|" * len(sizes))
    for name in dict.fromkeys(name for name, _ in taken):
        cells = " | ".join(f"{median(taken[name, size]):.1f}" for size in sizes)
        print(f"| {name} | {cells} |")


def with_routes(folder: Path, count: int) -> None:
    """Run the service with routes of its own kind added before anybody asks."""
    sys.path.insert(0, str(folder.resolve() / "src"))
    process, package = import_module(f"{package_of(folder)}.__main__"), package_of(folder)
    auth = import_module(f"{package}.patterns.jwt_auth")
    live, plain = import_module(f"{package}.patterns.health").livez, process.create_app

    def create_app(*arguments: object) -> object:
        app = plain(*arguments)
        for number in range(count):
            app.router.add_get(f"/more{number}/{{name}}", auth.public(live))
        return app

    process.create_app = create_app  # type: ignore[attr-defined]  # the module's own name
    raise SystemExit(process.main([]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("service", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--connections", type=int, default=1000, help="for memory")
    given = parser.parse_args()
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, files), files))
    os.sched_setaffinity(0, {CORES[-1]})
    imports(given.service, given.rounds)
    us, env = [sys.executable, __file__], environment(given.service, "http://127.0.0.1:9")
    commands = {"service": [sys.executable, "-m", package_of(given.service)]}
    many = {n: [*us, "--routes", str(n), str(given.service.resolve())] for n in ROUTES}
    with ExitStack() as stack:
        servers = [stack.enter_context(running("bare", [*us, "--bare"], CORES[0]))]
        servers.append(
            stack.enter_context(running("service", commands["service"], CORES[0], **env))
        )
        memory(servers, given.connections)
        grown(servers, CONNECTIONS, given.rounds)
        routed = [
            stack.enter_context(running(f"{n}", command, CORES[0], **env))
            for n, command in many.items()
        ]
        taken: dict[tuple[str, int], list[float]] = {("service", n): [] for n in ROUTES}
        for _ in range(given.rounds):
            for server in random.sample(routed, len(routed)):
                with connected(server, 16) as sockets:
                    spent = cost(server, GET, sockets, 0.5)
                taken["service", int(server.name)].append(spent or float("nan"))
        table("routes more", taken, ROUTES)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--bare"]:
        asyncio.run(bare(""))
    elif sys.argv[1:2] == ["--routes"]:
        with_routes(Path(sys.argv[3]), int(sys.argv[2]))
    else:
        main()
