"""Bounded bodies: a request's body is read within a size and a time, or refused with the right 4xx.

aiohttp waits for a body for ever, finds out that it is too large by reading it, and has said
`100 Continue` before anybody knows whether it is wanted.

Wiring::

    read_body = bounded_body(max_bytes=2**20, timeout=10)
    app.router.add_post("/notes", handler, expect_handler=continue_when_read)

Needs: aiohttp>=3.14.4
Order: called by a handler, so after authentication. Set the server's `lingering_time` to 1 or 2
    seconds: for so long (10 by default) a refused body is still read and thrown away.
Not: multipart and uploads that are never held whole.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext

from aiohttp import HttpVersion11, hdrs, web

__all__ = ["bounded_body", "continue_when_read"]

EXPECTS = web.RequestKey("expects_continue", bool)
CODINGS = frozenset({"", "identity", "gzip", "deflate"})  # what aiohttp decodes without extras


def bounded_body(
    *,
    max_bytes: int,
    timeout: float,
    patience: float = 0.1,
    waiting: Callable[[web.Request], AbstractContextManager[None]] = lambda _: nullcontext(),
) -> Callable[[web.Request], Awaitable[bytes]]:
    """Read whole bodies of at most `max_bytes` once decompressed, within `timeout` seconds.

    Raises 413 (before reading, when the length is declared), 415 for an unknown Content-Encoding,
    400 for broken framing or compression, 408 when it takes too long, and ConnectionResetError when
    the client left. `waiting` is entered for a body that is not whole after `patience` seconds.
    """

    async def read(request: web.Request) -> bytes:
        if hdrs.CONTENT_ENCODING in request.headers:
            _check_coding(request.headers[hdrs.CONTENT_ENCODING])
        body = bytearray()
        try:
            if request.content.is_eof():  # the usual case, which needs no timer (4 µs)
                whole = request.content.read_nowait()
                _check_size(len(whole), max_bytes)
                return whole
            _check_size(request.content_length or 0, max_bytes)
            if not await _collect(request, body, max_bytes, min(patience, timeout)):
                with waiting(request):
                    if not await _collect(request, body, max_bytes, timeout - patience):
                        raise _last(web.HTTPRequestTimeout(text="The request body came too late."))
        except web.RequestPayloadError as error:
            text = "The request body is not encoded as its headers say."
            raise _last(web.HTTPBadRequest(text=text)) from error
        except (OSError, RuntimeError) as error:
            if request.transport is not None:
                raise
            raise ConnectionResetError("the client left before its body was read") from error
        return bytes(body)

    return read


async def continue_when_read(request: web.Request) -> None:
    """An `expect_handler` that leaves `100 Continue` to the reader, to be said when it begins.

    RFC 9110, section 10.1.1: a client that gets a final answer instead need not send the body.
    """
    if request.version == HttpVersion11:
        if request.headers[hdrs.EXPECT].lower() != "100-continue":
            raise web.HTTPExpectationFailed(text="Only 100-continue can be expected.")
        request[EXPECTS] = True


def _check_coding(coding: str) -> None:
    if coding.strip().lower() not in CODINGS:
        accepted = {hdrs.ACCEPT_ENCODING: "gzip, deflate"}  # RFC 9110, section 15.5.16
        text = "This Content-Encoding is not supported."
        raise _last(web.HTTPUnsupportedMediaType(text=text, headers=accepted))


async def _collect(request: web.Request, body: bytearray, max_bytes: int, seconds: float) -> bool:
    """Whether the body was whole in time; what has come until then is in `body` either way."""
    if request.pop(EXPECTS, False):
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # the answer proper has not begun
    try:
        async with asyncio.timeout(seconds):
            while chunk := await request.content.readany():
                body += chunk
                _check_size(len(body), max_bytes)
    except TimeoutError:
        return False
    return True


def _check_size(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        text = f"The request body is larger than {max_bytes} bytes."
        raise _last(web.HTTPRequestEntityTooLarge(max_bytes, text=text))


def _last(error: web.HTTPException) -> web.HTTPException:
    """The rest of the body is not wanted, so this is the connection's last answer."""
    error.force_close()
    return error
