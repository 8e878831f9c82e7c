"""Downloads: what is made while it is sent, at the pace of its reader, whole or visibly broken.

A body built in memory costs its size times its readers; a hand-written loop answers 200 before the
first error, leaks its cursor when the client leaves, and waits for ever for one that stopped.

Wiring::

    async def export(request: web.Request) -> web.StreamResponse:
        return await download(request, rows(), filename="rows.csv", content_type="text/csv")

    app.router.add_get("/export", export)

Needs: aiohttp>=3.14.4
Order: none; called by handlers. It holds a place for as long as its reader takes: mark the handler
    as a stream where streams are counted apart.
Not: ranges and resuming. For a file on disk return `web.FileResponse`, which has both.
"""

import asyncio
import base64
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from urllib.parse import quote

from aiohttp import hdrs, web

__all__ = ["Known", "download", "in_thread"]


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of the body before it is sent: its bytes, and its SHA-256 digest."""

    length: int | None = None
    sha256: bytes | None = None


async def download(  # noqa: PLR0913  # two of them are what it is about
    request: web.Request,
    chunks: AsyncGenerator[bytes],
    *,
    filename: str,
    content_type: str = "application/octet-stream",
    known: Known = Known(),
    stall: float = 30.0,
) -> web.StreamResponse:
    """Send `chunks` as a file to be saved; the next is asked for when the last has been taken.

    What the source raises before its first chunk is raised, and so becomes an answer. Raised
    later, or with another length than is `known`, it ends the connection, which is how the client
    learns that the file is not whole. A client that leaves, or takes nothing for `stall` seconds,
    is no error. The source is closed in every case.
    """
    response = web.StreamResponse(headers=_headers(filename, known))
    response.content_type = content_type
    response.content_length = known.length
    async with aclosing(chunks):
        transport = request.transport
        if request.method == hdrs.METH_HEAD or transport is None:
            return response
        chunk = await anext(chunks, None)
        await response.prepare(request)
        with suppress(ConnectionError):
            try:
                await _send(transport, response, chunk, chunks, stall)
            except web.HTTPException as error:
                # Let through, it would be written as a second answer into this one's body.
                raise RuntimeError("the source of a download failed") from error
    return response


async def in_thread(blocking: Iterable[bytes]) -> AsyncGenerator[bytes]:
    """Iterate a blocking source, a database cursor say, in threads; its own `close` is called."""
    source = iter(blocking)
    try:
        while (chunk := await asyncio.to_thread(next, source, None)) is not None:
            yield chunk
    finally:
        if callable(close := getattr(source, "close", None)):
            await asyncio.to_thread(close)


async def _send(
    transport: asyncio.Transport,
    response: web.StreamResponse,
    first: bytes | None,
    rest: AsyncIterator[bytes],
    stall: float,
) -> None:
    length, sent, chunk = response.content_length, 0, first
    while chunk is not None:
        sent += len(chunk)
        if length is not None and sent > length:
            break
        try:
            async with asyncio.timeout(stall):
                await response.write(chunk)
        except TimeoutError:
            # Nothing else ends a stalled connection: a close would wait for the same reader.
            transport.abort()
            raise ConnectionResetError("the client stopped reading") from None
        chunk = await anext(rest, None)
    if length is not None and sent != length:
        raise RuntimeError("the source of a download has not the length that was announced")
    await response.write_eof()


def _headers(filename: str, known: Known) -> dict[str, str]:
    """RFC 6266, section 4.3: an ASCII name for all, and the real one for those who understand."""
    name = "".join("_" if each in '/\\"' or not each.isprintable() else each for each in filename)
    plain = name.encode("ascii", "replace").decode().replace("?", "_").replace("%", "_")
    disposition = f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"
    headers = {hdrs.CONTENT_DISPOSITION: disposition, "X-Content-Type-Options": "nosniff"}
    if known.sha256 is not None:  # RFC 9530, section 3
        headers["Repr-Digest"] = f"sha-256=:{base64.b64encode(known.sha256).decode()}:"
    return headers
