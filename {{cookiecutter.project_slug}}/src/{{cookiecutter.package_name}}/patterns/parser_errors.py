"""Parser errors: bytes that are not HTTP get a problem document, and no version, and no echo.

aiohttp answers them below every middleware and callback, with a text that repeats up to 100 bytes
of the input, and a `Server` header that names its version and Python's.

Wiring::

    await runner.setup()
    server = runner.server
    server.request_factory = parser_problems(server.request_factory)

Needs: aiohttp>=3.14.4
Order: after the runner's setup, before the first site starts.
Not: the log lines of such requests. aiohttp documents neither attribute; a test tells when they go.
"""

import asyncio
import os
from collections.abc import Callable, Mapping
from typing import TypeAlias

from aiohttp import StreamReader, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import RawRequestMessage

__all__ = ["parser_problems"]

Task: TypeAlias = asyncio.Task[None]
Factory: TypeAlias = Callable[
    [RawRequestMessage, StreamReader, web.RequestHandler, AbstractStreamWriter, Task],
    web.BaseRequest,
]


def parser_problems(make: Factory, headers: Mapping[str, str] | None = None) -> Factory:
    """A request factory that gives the requests aiohttp invents for its errors a writer of ours."""
    fixed = {**(headers or {}), "Content-Type": "application/problem+json", "Connection": "close"}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fixed.items())

    def factory(
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: web.RequestHandler,
        writer: AbstractStreamWriter,
        task: Task,
    ) -> web.BaseRequest:
        if message.method == "UNKNOWN" and not message.raw_headers:
            writer = _Problem(writer, lines)
        return make(message, payload, protocol, writer, task)

    return factory


class _Problem(AbstractStreamWriter):
    """Writes one answer at the end, whatever it was told to write."""

    def __init__(self, writer: AbstractStreamWriter, lines: str) -> None:
        self._writer, self._lines = writer, lines

    async def write_eof(self, chunk: bytes = b"") -> None:
        known = os.urandom(16).hex()
        body = (
            '{"type":"about:blank","title":"Bad Request","status":400,'
            f'"detail":"This is not a valid HTTP request.","request_id":"{known}"}}'
        )
        head = f"HTTP/1.1 400 Bad Request\r\n{self._lines}X-Request-ID: {known}\r\n"
        await self._writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())

    async def write_headers(self, status_line: str, headers: Mapping[str, str]) -> None: ...
    async def write(self, chunk: bytes | bytearray | memoryview) -> None: ...
    async def drain(self) -> None: ...
    def enable_compression(
        self, encoding: str = "deflate", strategy: int | None = None
    ) -> None: ...
    def enable_chunking(self) -> None: ...
