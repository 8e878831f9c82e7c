"""The servers of a comparison as processes: started, pinned to a core, and read from outside."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
ISSUER = "bench"
SECRET = os.urandom(24).hex()  # one for all, of this run
CORES = sorted(os.sched_getaffinity(0))
SERVER_CORE, CLIENT_CORE = CORES[-1], CORES[0]
START = 60.0  # seconds; a dozen servers share a core while they import


@dataclass(frozen=True)
class Baked:
    """The generated service, and the Python that has the packages of its own lock, as shipped."""

    src: Path
    python: Path


@dataclass
class Server:
    """A running server; `output` is a file, so that its lines of log can be read and counted."""

    name: str
    process: subprocess.Popen[bytes]
    port: int
    output: Path
    asked: int = 0  # requests with a new token so far, so that tokens go on where they were
    read: int = 0  # bytes of its output so far
    answered: int = 0  # of the last load, as expected

    def cpu(self) -> float:
        """Seconds of user and system time of the process tree, from its clocks in nanoseconds."""
        return sum(time.clock_gettime((~pid << 3) | 2) for pid in _tree(self.process.pid))

    def memory(self) -> int:
        """Bytes of physical memory that are the process tree's own."""
        status = (Path(f"/proc/{pid}/status").read_text() for pid in _tree(self.process.pid))
        return sum(int(text.split("RssAnon:")[1].split()[0]) * 1024 for text in status)

    def lines(self) -> list[dict[str, object]]:
        """The log since the last time; what is no JSON fails the run."""
        with self.output.open("rb") as file:
            file.seek(self.read)
            text, newline, _ = file.read().rpartition(b"\n")
        self.read += len(text + newline)
        try:
            return [json.loads(line) for line in text.splitlines()]
        except ValueError:
            raise SystemExit(f"{self.name} complains:\n{text.decode()}") from None

    def settle(self) -> None:
        """Return when the server is idle: what a load leaves behind is not the next one's."""
        deadline, last = time.monotonic() + 10, self.cpu()
        while time.monotonic() < deadline:
            time.sleep(0.05)
            now = self.cpu()
            if now - last < 0.001:
                return
            last = now


def _tree(pid: int) -> Iterator[int]:
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            yield from _tree(int(child))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def pinned(command: Sequence[object], env: dict[str, str], output: Path, core: int) -> Iterator:
    def prepare() -> None:
        os.sched_setaffinity(0, {core})

    with output.open("ab") as file:
        process = subprocess.Popen(
            [str(part) for part in command],
            env=env,
            cwd=output.parent,
            stdout=file,
            stderr=subprocess.STDOUT,
            preexec_fn=prepare,  # noqa: PLW1509  # no threads here
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


@contextmanager
def fleet(rows: dict[str, str], service: Baked, folder: Path) -> Iterator[dict[str, Server]]:
    """Start the upstream and a server for each row; a row's command names a file of this folder,
    or is `service` for the generated service."""
    with ExitStack() as stack:
        upstream = free_port()
        command = [sys.executable, HERE / "upstream.py", upstream]
        process = stack.enter_context(
            pinned(command, dict(os.environ), folder / "upstream", CLIENT_CORE)
        )
        servers: dict[str, Server] = {}
        for name, row in rows.items():
            port, output = free_port(), folder / f"{name}.log"
            output.write_bytes(b"")
            command, env = _command(row, service, port, upstream)
            started = stack.enter_context(pinned(command, env, output, SERVER_CORE))
            servers[name] = Server(name, started, port, output)
        for server in (
            Server("upstream", process, upstream, folder / "upstream"),
            *servers.values(),
        ):
            _wait(server)
        for server in servers.values():
            server.settle()
            server.read = server.output.stat().st_size  # what was said at the start
        yield servers


def _command(
    row: str, service: Baked, port: int, upstream: int
) -> tuple[list[object], dict[str, str]]:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("APP_", "PEER_", "PYTHON"))}
    url = f"http://127.0.0.1:{upstream}"
    if row == "service":  # as production runs it
        return [service.python, "-m", "my_service"], env | {
            "PYTHONPATH": str(service.src),
            "APP_HOST": "127.0.0.1",
            "APP_PORT": str(port),
            "APP_JWT_SECRET": SECRET,
            "APP_JWT_ISSUER": ISSUER,
            "APP_JWT_AUDIENCE": ISSUER,
            "APP_UPSTREAM_URL": url,
        }
    file, *arguments = row.split()
    python = service.python if "aiohttp" in file else sys.executable  # aiohttp beside aiohttp
    return [python, HERE / file, *arguments], env | {
        "PEER_SECRET": SECRET,
        "PEER_ISSUER": ISSUER,
        "PEER_UPSTREAM": url,
        "PEER_PORT": str(port),
        "PEER_SERVICE": str(service.src),
    }


def _wait(server: Server) -> None:
    deadline = time.monotonic() + START
    while True:
        try:
            socket.create_connection(("127.0.0.1", server.port), 1).close()
        except OSError as error:
            if server.process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(
                    f"{server.name} does not start:\n{server.output.read_text()}"
                ) from error
            time.sleep(0.05)
        else:
            return
