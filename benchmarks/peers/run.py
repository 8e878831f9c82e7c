"""The generated service beside its peers: CPU a request first, requests a second after it.

    make peers              everything, into results/peers.json, then tables, plots and promises
    make peers QUICK=1      under five minutes, into build/; for a look, not for publishing

Run it with the Python of build/peers, which has the peers and cookiecutter; the service is baked
from the template as it lies here. All servers of a comparison are started, left idle, and visited
one after the other in a new random order each round; ratios are of the same round. Servers share
one core, clients and the upstream have another. `--only` and `--add` make it in pieces.

http     a POST with auth, validation and a line of log; the same with a new token each time; a GET
         with auth; a call to an upstream through a shared client session
chat     a message to 1,000 WebSockets, one of which has stopped reading in the service's case
events   a message to 1,000 streams of Server-Sent Events
memory   of an idle WebSocket, of an idle stream
start    what importing costs
"""

import argparse
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from statistics import median

import report
from check import logged, same_work
from fleet import CLIENT_CORE, CORES, SERVER_CORE, Baked, Server, fleet
from load import Load, allow_sockets, closed_loop, fan_out, loads, memory_of_a_stream

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "peers.json"
PACKAGES = (
    "aiohttp blacksheep cryptography fastapi httptools httpx litestar pydantic pyjwt quart sanic "
    "sse-starlette starlette uvicorn uvloop websockets"
)
Row = dict[str, dict[str, list[dict[str, float]]]]

HTTP = {
    "service": "service",
    "bare": "on_aiohttp_bare.py",
    "usual": "on_aiohttp_usual.py",
    "starlette_tricks": "on_starlette_tricks.py",
    "starlette_features": "on_starlette_features.py",
    "starlette": "on_starlette.py",
    "blacksheep": "on_blacksheep.py",
    "sanic": "on_sanic.py",
    "litestar": "on_litestar.py",
    "quart": "on_quart.py",
    "fastapi_best": "on_fastapi_best.py",
    "fastapi_popular": "on_fastapi_popular.py",
}
CHAT = {
    "service": "service",
    "service_none_stalled": "service",
    "loop": "chat_aiohttp.py",
    "uvicorn_websockets": "chat_starlette.py websockets",
    "uvicorn_sansio": "chat_starlette.py websockets-sansio",
    "uvicorn_wsproto": "chat_starlette.py wsproto",
    "broadcast": "chat_websockets.py asyncio",
    "broadcast_uvloop": "chat_websockets.py uvloop",
}
EVENTS = {
    "service": "service",
    "streaming": "events_starlette.py streaming",
    "sse_starlette": "events_starlette.py sse-starlette",
}
START = {
    "service": "my_service.__main__",
    "parts": "aiohttp.web, pydantic, jwt",
    "fastapi": "fastapi",
    "fastapi_popular": "on_fastapi_popular",
}
STEADY = 0.15  # by which the core's pace may differ from its usual one, before and after a visit
ATTEMPTS = 8
PACES: list[float] = []
WITHOUT_CACHE = ("service", "starlette_tricks", "starlette", "usual")  # for post_fresh


@dataclass(frozen=True)
class Size:
    rounds: int
    seconds: float
    warm: float
    connections: int
    streams: int
    messages: int


SIZES = {
    "full": Size(rounds=7, seconds=0.6, warm=0.1, connections=32, streams=1000, messages=100),
    "quick": Size(rounds=2, seconds=0.3, warm=0.1, connections=32, streams=1000, messages=60),
    "smoke": Size(rounds=1, seconds=0.1, warm=0.0, connections=4, streams=20, messages=20),
}


def shuffled(names: Iterable[str]) -> list[str]:
    order = list(names)
    random.shuffle(order)
    return order


def pace() -> float:
    """Seconds of CPU that a fixed piece of work takes on the servers' core at the moment."""
    os.sched_setaffinity(0, {SERVER_CORE})
    begun = time.process_time()
    sum(range(1_000_000))
    PACES.append(time.process_time() - begun)
    os.sched_setaffinity(0, {CLIENT_CORE})
    return PACES[-1]


def steadily(visit: Callable[[], dict[str, float]]) -> dict[str, float]:
    """What a visit finds at the core's usual pace: a lent core may be twice as fast for seconds."""
    for attempt in range(ATTEMPTS):
        before = pace()
        found = visit()
        usual, both = median(PACES), (before, pace())
        steady = max(both) <= (1 + STEADY) * usual and min(both) >= (1 - STEADY) * usual
        found |= {"repeated": attempt, "steady": float(steady)}
        if steady:
            break
    return found


def http(size: Size, service: Baked, folder: Path) -> dict[str, Row]:
    found: dict[str, Row] = {name: {} for name in loads()}
    with fleet(HTTP, service, folder) as servers:
        for name, server in servers.items():
            if name != "bare":  # which is the floor, and does not
                same_work(server)
        for number in range(size.rounds):
            for name, load in loads().items():
                rows = WITHOUT_CACHE if name == "post_fresh" else HTTP
                for row in shuffled(rows):
                    one = steadily(partial(asked, servers[row], load, size))
                    found[name].setdefault(row, []).append(one)
            said(f"http: round {number + 1} of {size.rounds}")
    return found


def asked(server: Server, load: Load, size: Size) -> dict[str, float]:
    one = closed_loop(server, load, size.connections, size.warm, size.seconds)
    server.settle()
    if server.name != "bare":
        logged(server)
    return one


def fanned_out(rows: dict[str, str], size: Size, service: Baked, folder: Path) -> Row:
    found: Row = {}
    with fleet(rows, service, folder) as servers:
        for number in range(size.rounds):
            for row in shuffled(rows):
                stalled = int(rows is CHAT and row == "service")
                visit = partial(fanned_out_by, servers[row], size, rows is CHAT, stalled)
                found.setdefault(row, []).append(steadily(visit))
            said(f"fan-out: round {number + 1} of {size.rounds}")
    return found


def fanned_out_by(server: Server, size: Size, websocket: bool, stalled: int) -> dict[str, float]:
    one = fan_out(server, size.streams, size.messages, websocket=websocket, stalled=stalled)
    server.settle()
    return one


def memory(size: Size, service: Baked, folder: Path) -> dict[str, Row]:
    """Each figure from a process of its own: one that has had streams before has room for more."""
    found: dict[str, Row] = {}
    kinds = {"websocket": CHAT, "events": EVENTS}
    for number in range(size.rounds):
        for kind, rows in kinds.items():
            fresh = {row: file for row, file in rows.items() if row != "service_none_stalled"}
            for row in shuffled(fresh):
                with fleet({row: fresh[row]}, service, folder) as servers:
                    each = memory_of_a_stream(
                        servers[row], size.streams, websocket=kind == "websocket"
                    )
                found.setdefault(kind, {}).setdefault(row, []).append({"kib": each})
        said(f"memory: round {number + 1} of {size.rounds}")
    return found


def start(size: Size, service: Baked, folder: Path) -> Row:
    """Milliseconds of CPU that the imports take, in processes that begin with nothing imported."""
    given = {"PEER_SECRET": "x" * 32, "PEER_ISSUER": "x", "PEER_UPSTREAM": "x", "PEER_PORT": "0"}
    path = f"{service.src}{os.pathsep}{Path(__file__).parent}"
    env = os.environ | given | {"PYTHONPATH": path}
    found: Row = {}
    for number in range(2 * size.rounds + 1):  # the first writes the byte code, and is dropped
        for row in shuffled(START):
            code = f"t = time.process_time()\nimport {START[row]}\nprint(time.process_time() - t)"
            python = sys.executable if "fastapi" in row else service.python
            command: list[object] = [python, "-c", f"import time\n{code}"]
            one = steadily(partial(imported, command, env, folder))
            if number:
                found.setdefault(row, []).append(one)
    said("start: done")
    return found


def imported(command: list[object], env: dict[str, str], folder: Path) -> dict[str, float]:
    os.sched_setaffinity(0, {SERVER_CORE})  # whose pace is known
    printed = subprocess.check_output([str(part) for part in command], env=env, cwd=folder)
    os.sched_setaffinity(0, {CLIENT_CORE})
    return {"cpu_ms": float(printed) * 1000}


def clone(folder: Path) -> Path:
    """The template without what running its tools leaves in it."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=False)
    for name in filter(None, listed.stdout.split("\0")):
        if name.startswith(("cookiecutter.json", "hooks/", "{{")) and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder if listed.returncode == 0 else ROOT


def bake(folder: Path) -> Baked:
    """The service with the default answers, from the template as it lies here, and its packages."""
    command = [sys.executable, "-m", "cookiecutter", "--no-input", "--default-config"]
    bake = [*command, "--output-dir", str(folder), str(clone(folder / "template"))]
    subprocess.run(bake, check=True, stdout=subprocess.DEVNULL)
    lock = folder / "my-service" / "requirements" / "run.txt"
    key = sha256(lock.read_bytes() + sys.version.encode()).hexdigest()[:8]
    python = ROOT / "build" / f"peers-service-{key}" / "bin" / "python"
    ready = python.parents[1] / ".ready"
    if not ready.exists():
        uv = [sys.executable, "-m", "uv"]
        venv = [*uv, "venv", "--quiet", "--clear", "--python", sys.executable, python.parents[1]]
        install = [*uv, "pip", "install", "--quiet", "--require-hashes", "--python", python]
        subprocess.run([str(part) for part in venv], check=True)
        subprocess.run([str(part) for part in [*install, "--requirement", lock]], check=True)
        ready.touch()
    return Baked(folder / "my-service" / "src", python)


def about(size: Size, service: Baked) -> dict[str, object]:
    """The machine, the versions, the tree, and how it was measured."""
    model = [
        line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    digest = sha256()
    for file in sorted(service.src.rglob("*.py")):
        digest.update(file.relative_to(service.src).as_posix().encode() + file.read_bytes())
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": model[0].split(": ")[1] if model else platform.machine(),
        "cores": len(CORES),
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "versions": {name: version(name) for name in PACKAGES.split()},
        "commit": commit.stdout.strip(),
        "service": digest.hexdigest()[:16],
        "seconds": size.seconds,
        "connections": size.connections,
        "streams": size.streams,
        "messages": size.messages,
        "token_cache": "hit by each request, but in post_fresh, where none is hit",
    }


def said(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


PARTS: dict[str, Callable[[Size, Baked, Path], object]] = {
    "http": http,
    "chat": partial(fanned_out, CHAT),
    "events": partial(fanned_out, EVENTS),
    "memory": memory,
    "start": start,
}


def added(old: object, new: object) -> object:
    """The rounds of both; what only one of them has is kept."""
    if isinstance(old, list) and isinstance(new, list):
        return old + new
    if isinstance(old, dict) and isinstance(new, dict):
        both = {key: added(old[key], new[key]) for key in old.keys() & new.keys()}
        return {key: both.get(key, old.get(key, new.get(key))) for key in [*old, *new]}
    return new


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=float, help="of each visit with requests")
    parser.add_argument("--only", choices=PARTS, action="append")
    parser.add_argument("--add", action="store_true", help="keep the rounds that are there")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    size = SIZES[given.size]
    size = replace(size, rounds=given.rounds or size.rounds, seconds=given.seconds or size.seconds)
    output = given.output or (RESULTS if given.size == "full" else ROOT / "build" / "peers.json")
    allow_sockets(size.streams)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # and take the servers along
    os.sched_setaffinity(0, {CLIENT_CORE})
    results = json.loads(output.read_text()) if output.exists() else {}
    shared = Path("/dev/shm")  # noqa: S108  # no disk behind the lines of log
    place = shared if shared.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="peers-", dir=place) as name:
        folder = Path(name)
        service = bake(folder)
        results["about"] = about(size, service)
        for part in given.only or PARTS:
            found = PARTS[part](size, service, folder)
            results[part] = rounded(added(results.get(part), found) if given.add else found)
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_text(json.dumps(results, indent=1) + "\n")
    judged = report.print_all(results)
    if output != RESULTS:
        return 0  # too short to judge by
    if PARTS.keys() <= results.keys():
        report.write(results)
    return judged


def rounded(value: object) -> object:
    if isinstance(value, float):
        return round(value, 3)
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list) else value


if __name__ == "__main__":
    sys.exit(main())
