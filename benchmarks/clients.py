"""What `shutdown.py` and `streams.py` share: the service as a process, and clients of every manner.

    python clients.py PATH_OF_GENERATED_SERVICE

runs the service as `python -m PACKAGE` does, with one route more: `/bench` tells how many tasks and
connections there are, which is nobody's business in production.
"""

import asyncio
import base64
import contextlib
import ctypes
import json
import os
import random
import re
import signal
import socket
import struct
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from hmac import digest
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any

import aiohttp
import aiohttp.web

SECRET = os.environ.get("BENCH_SECRET", os.urandom(24).hex()).encode()
ROOMS = "/api/v1/rooms"
SO_ATTACH_FILTER = 26
LINGER_0 = struct.pack("ii", 1, 0)


def check(name: str, figure: object, bar: str, passed: bool) -> bool:
    """Print one line; the exit code of the script is whether all passed."""
    print(f"{'ok    ' if passed else 'MISSED'} {name:58} {figure!s:>22}   bar: {bar}", flush=True)
    return passed


def token(sub: str = "bench", scope: str = "rooms:read rooms:write rates:read") -> str:
    now = int(time.time())
    claims = {"iss": "bench", "aud": "bench", "sub": sub, "scope": scope, "iat": now}
    parts = [{"alg": "HS256", "typ": "JWT"}, claims | {"exp": now + 3600}]
    signed = b".".join(_base64(json.dumps(part).encode()) for part in parts)
    return (signed + b"." + _base64(digest(SECRET, signed, sha256))).decode()


def _base64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


@dataclass
class Service:
    """A running service: its process, its address, and the file that has all its output."""

    process: asyncio.subprocess.Process
    host: str
    port: int
    output: Path
    bearer: dict[str, str] = field(default_factory=lambda: {"Authorization": f"Bearer {token()}"})

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def signal(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def open_files(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def memory(self) -> int:
        """Bytes of physical memory that are this process's own."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("RssAnon:")[1].split()[0]) * 1024

    def complaints(self) -> list[str]:
        """Lines above info, and lines that are no log line at all."""
        found: list[str] = []
        for line in self.output.read_text().splitlines():
            try:
                level = json.loads(line)["level"]
            except (ValueError, KeyError, TypeError):
                level = "none"
            if level.lower() not in {"info", "debug"}:
                found.append(line)
        return found

    async def tell(self, session: aiohttp.ClientSession) -> dict[str, int]:
        async with session.get(f"{self.url}/bench") as response:
            told: dict[str, int] = await response.json()
            return told

    async def numbers(self, session: aiohttp.ClientSession) -> dict[str, float]:
        """The metrics by name and labels."""
        async with session.get(f"{self.url}/metrics") as response:
            lines = (await response.text()).splitlines()
        split = (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, value in split}

    async def send(self, session: aiohttp.ClientSession, room: str, text: str) -> str:
        url = f"{self.url}{ROOMS}/{room}/messages"
        async with session.post(url, json={"text": text}, headers=self.bearer) as response:
            response.raise_for_status()
            return str((await response.json())["id"])


@contextlib.asynccontextmanager
async def running(
    folder: Path, settings: Mapping[str, str] = MappingProxyType({}), *, bench: bool = False
) -> AsyncIterator[Service]:
    """The service as production runs it, on a free port; `bench` adds the route of that name."""
    (package,) = (path.parent.name for path in (folder / "src").glob("*/app.py"))
    clean = {k: v for k, v in os.environ.items() if not k.startswith("APP_")}
    given = {
        "PYTHONPATH": str((folder / "src").absolute()),
        "APP_HOST": "127.0.0.1",
        "APP_PORT": "0",
        "APP_JWT_SECRET": SECRET.decode(),
        "APP_JWT_ISSUER": "bench",
        "APP_JWT_AUDIENCE": "bench",
    }
    what = [__file__, str(folder.absolute())] if bench else ["-m", package]
    with tempfile.TemporaryDirectory() as cwd:
        output = Path(cwd) / "output"
        with output.open("wb") as file:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-W", "default", *what,
                env={**clean, **given, **settings}, cwd=cwd, stdout=file, stderr=file,
            )  # fmt: skip
        try:
            async with asyncio.timeout(30):
                while not (at := re.search(r"http://([\d.]+):(\d+)", output.read_text())):
                    if process.returncode is not None:
                        raise RuntimeError(output.read_text())
                    await asyncio.sleep(0.02)
            yield Service(process, at[1], int(at[2]), output)
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def raw(
    service: Service, path: str, *, small: bool = False, websocket: bool = False
) -> socket.socket:
    """A client of few bytes, that has been answered; `small`: its kernel holds next to nothing."""
    connection = socket.socket()
    if small:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
    connection.settimeout(20)
    connection.connect((service.host, service.port))
    connection.sendall(request(service, path, websocket=websocket))
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += connection.recv(256)
    assert answer.startswith((b"HTTP/1.1 101", b"HTTP/1.1 200")), answer
    connection.setblocking(False)
    return connection


def request(service: Service, path: str, *, websocket: bool = False) -> bytes:
    head = f"GET {path} HTTP/1.1\r\nHost: {service.host}\r\n"
    head += f"Authorization: {service.bearer['Authorization']}\r\n"
    if websocket:
        key = base64.b64encode(random.randbytes(16)).decode()
        head += "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        head += f"Sec-WebSocket-Key: {key}\r\n"
    return f"{head}\r\n".encode()


def vanish(connection: socket.socket) -> None:
    """As if the power had failed: its kernel drops what arrives, so there is no ACK and no FIN."""
    program = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))  # BPF: return 0
    filters = struct.pack("HL", 1, ctypes.addressof(program))
    connection.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, filters)


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_0)
    connection.close()


def frames(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The whole frames of a server (they are not masked) as opcode and payload."""
    at = 0
    while len(data) - at >= 2:
        size, begin = data[at + 1], at + 2
        if size == 126:
            size, begin = int.from_bytes(data[begin : begin + 2], "big"), begin + 2
        elif size == 127:
            size, begin = int.from_bytes(data[begin : begin + 8], "big"), begin + 8
        if begin + size > len(data):
            return
        yield data[at] & 15, data[begin : begin + size]
        at = begin + size


class Peer(asyncio.Protocol):
    """A client of next to no cost: hands on what it reads, and answers pings (not closes)."""

    def __init__(self, data: Callable[[bytes], None], websocket: bool) -> None:
        self.data, self.websocket, self.opened = data, websocket, False
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.head = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def data_received(self, data: bytes) -> None:
        if not self.opened:
            self.head += data
            head, end, data = self.head.partition(b"\r\n\r\n")
            if not end:
                return
            self.opened = True
            if not self.ready.done():
                self.ready.set_result(None)
            if not head.startswith((b"HTTP/1.1 101", b"HTTP/1.1 200")):
                self.ready = asyncio.get_running_loop().create_future()
                self.ready.set_exception(ConnectionError(head.decode()))
        if self.websocket and data.startswith(b"\x89\x00"):
            self.transport.write(b"\x8a\x80\0\0\0\0")
        elif data:
            self.data(data)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.lost.done():
            self.lost.set_result(None)


async def peer(
    service: Service, path: str, data: Callable[[bytes], None], *, websocket: bool
) -> Peer:
    loop = asyncio.get_running_loop()
    _, protocol = await loop.create_connection(
        lambda: Peer(data, websocket), service.host, service.port
    )
    protocol.transport.write(request(service, path, websocket=websocket))
    await protocol.ready
    return protocol


def serve(folder: Path) -> int:
    """Run the service with the route `/bench`; the result is the exit code."""
    (package,) = (path.parent.name for path in (folder / "src").glob("*/app.py"))
    process: Any = import_module(f"{package}.__main__")
    auth: Any = import_module(f"{package}.patterns.jwt_auth")
    shed: Any = import_module(f"{package}.patterns.backpressure")
    plain = process.create_app

    async def tell(request: aiohttp.web.Request) -> aiohttp.web.Response:
        server: Any = request.protocol._manager
        told = {"tasks": len(asyncio.all_tasks()), "connections": len(server.connections)}
        return aiohttp.web.json_response(told)

    def create_app(*arguments: object) -> Any:
        app = plain(*arguments)
        app.router.add_get("/bench", auth.public(shed.never_shed(tell)))
        return app

    process.create_app = create_app
    return int(process.main([]))


if __name__ == "__main__":
    sys.exit(serve(Path(sys.argv[1])))
