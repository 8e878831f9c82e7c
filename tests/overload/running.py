"""The generated service as a process, and a client that needs nothing but the standard library."""

import asyncio
import json
import os
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECRET = "0123456789abcdef" * 4


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Service:
    """A running service; `pid` is its process."""

    port: int
    pid: int
    token: str

    async def get(self, path: str, **headers: str) -> Answer:
        reader, writer = await self.connect()
        lines = "".join(f"{k}: {v}\r\n" for k, v in (self.bearer | headers).items())
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n{lines}Connection: close\r\n\r\n".encode())
        try:
            return await read_answer(reader)
        finally:
            writer.transport.abort()

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    @property
    def bearer(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    async def metric(self, name: str) -> float:
        text = (await self.get("/metrics")).body.decode()
        (line,) = [line for line in text.splitlines() if line.startswith(f"{name} ")]
        return float(line.split()[1])

    def memory(self) -> int:
        """Resident bytes."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def files(self) -> int:
        """Open file descriptors."""
        return sum(1 for _ in Path(f"/proc/{self.pid}/fd").iterdir())


async def read_answer(reader: asyncio.StreamReader) -> Answer:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    first, *lines = head.strip().split("\r\n")
    headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}
    if headers.get("transfer-encoding") == "chunked":
        body = await read_chunks(reader)
    else:
        body = await reader.readexactly(int(headers["content-length"]))
    return Answer(int(first.split()[1]), headers, body)


async def read_chunks(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while size := int(await reader.readline(), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    return body


@asynccontextmanager
async def running(
    folder: Path, python: Path, variables: Mapping[str, str]
) -> AsyncIterator[Service]:
    """Run the service of `folder` in development, with these settings besides."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("APP_")}
    given = {"APP_ENV": "dev", "APP_PORT": "0", "APP_LOG_FORMAT": "json", "PYTHONPATH": "src"}
    environment = clean | given | {"APP_JWT_SECRET": SECRET} | dict(variables)
    (package,) = (path.parent.name for path in (folder / "src").glob("*/app.py"))
    command = [str(python), "-m", package]
    options: dict[str, Any] = {"cwd": folder, "env": environment}
    scopes = "rates:read rooms:read rooms:write"
    token = subprocess.run(
        [*command, "token", "--scope", scopes], capture_output=True, check=True, **options
    )
    log = folder / "service.log"
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, **options) as process:
        try:
            port = await listening(log, process)
            yield Service(port, process.pid, token.stdout.decode().strip())
        finally:
            process.kill()


async def listening(log: Path, process: subprocess.Popen[bytes]) -> int:
    async with asyncio.timeout(20):
        while b"http://127.0.0.1:" not in log.read_bytes():
            assert process.poll() is None, "the service did not start"
            await asyncio.sleep(0.02)
    return int(log.read_text().split("http://127.0.0.1:")[1].split('"')[0].split(",")[0])
