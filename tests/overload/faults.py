"""An upstream on a free loopback port that goes wrong in the way its path's currency names."""

import asyncio
import gzip
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress

RATE = {"currency": "EUR", "rate": 1.08, "as_of": "2026-01-01T00:00:00Z"}
BOMB = gzip.compress(b" " * 200_000_000, compresslevel=6)
JSON = "Content-Type: application/json\r\n"
Write = Callable[[asyncio.StreamWriter], Awaitable[None]]


def answer(body: bytes, head: str = "HTTP/1.1 200 OK", headers: str = JSON) -> bytes:
    return f"{head}\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body


def sends(data: bytes) -> Write:
    async def write(writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()

    return write


async def hang(writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(60)


async def reset(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def close(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n" + JSON.encode() + b'Content-Length: 100\r\n\r\n{"curr')


async def drip(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n" + JSON.encode() + b"Content-Length: 10000\r\n\r\n")
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.05)


async def gigabyte(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n" + JSON.encode() + b"Transfer-Encoding: chunked\r\n\r\n")
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    for _ in range(2**14):
        writer.write(chunk)
        await writer.drain()


FAULTS: dict[str, tuple[Write, int]] = {
    "SLO": (hang, 504),
    "RES": (reset, 502),
    "CLO": (close, 502),
    "DRI": (drip, 504),
    "GAR": (sends(b"\x00\xff this is not HTTP\r\n\r\n"), 502),
    "TXT": (sends(answer(b"not JSON")), 502),
    "BAD": (sends(answer(b'{"currency": "EUR", "rate": -1}')), 502),
    "BIG": (gigabyte, 502),
    "BOM": (sends(answer(BOMB, headers=JSON + "Content-Encoding: gzip\r\n")), 502),
    "RED": (sends(answer(b"", "HTTP/1.1 302 Found", "Location: /rates/RED\r\n")), 502),
    "ERR": (sends(answer(b"{}", "HTTP/1.1 500 Internal Server Error")), 502),
    "BUS": (sends(answer(b"{}", "HTTP/1.1 503 Service Unavailable")), 502),
}
GOOD = sends(answer(json.dumps(RATE).encode()))


class Upstream:
    """Counts the requests it gets; those whose currency is no fault are answered with a rate."""

    def __init__(self) -> None:
        self.requests = 0
        self.writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> "Upstream":
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self.server.close()
        for writer in self.writers:
            writer.transport.abort()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.sleep(0.01)  # until all that has left

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.add(writer)
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.requests += 1
                write, status = FAULTS.get(head.split(b" ")[1][-3:].decode(), (GOOD, 200))
                await write(writer)
                if status != 200:
                    break
        writer.close()
        self.writers.discard(writer)
