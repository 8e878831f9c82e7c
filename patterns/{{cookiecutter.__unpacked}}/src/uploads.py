"""Uploads: forms with files, streamed to disk within limits, and removed again unless kept.

`request.post()` holds whole files in memory; the usual loop writes them on the event loop, to a
path that the client named, without any bound, and leaves them there when the client gives up.

Wiring::

    receive = uploads(UploadLimits(file=2**20))

    async def handler(request: web.Request) -> web.Response:
        async with receive(request) as form:
            return web.Response(text=f"{form.files[0].filename}: {form.files[0].size}")

Needs: aiohttp>=3.14.4
Order: called by a handler, so after authentication. Set the server's `lingering_time` to 1 or 2
    seconds: for so long (10 by default) a refused body is still read and thrown away.
Not: a look into the files: their type is what the client says. Nor a bound on the disk that all
    uploads together take; limit how many there are at once.
"""

import asyncio
import re
import shutil
import tempfile
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, TypeVar
from unicodedata import normalize

from aiohttp import BodyPartReader, MultipartReader, web
from aiohttp.http_exceptions import BadHttpMessage

__all__ = ["Form", "Upload", "UploadLimits", "safe_name", "uploads"]

T = TypeVar("T")
CHUNK = 256 * 1024  # bytes a write: a hop to a thread costs as much as copying some 100 KiB


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadLimits:
    """Bytes of a file, of a text field and of the body; how many parts; and seconds for it all."""

    file: int = 10 * 2**20
    text: int = 16 * 1024
    body: int = 50 * 2**20
    parts: int = 50
    seconds: float = 60.0


@dataclass(frozen=True, slots=True)
class Upload:
    """A file on disk, under a name of ours. `filename` is made safe; the type is only claimed."""

    field: str
    filename: str
    content_type: str
    path: Path
    size: int


@dataclass(frozen=True, slots=True)
class Form:
    """What came, in its order: files, and text fields as name and value."""

    files: list[Upload] = field(default_factory=list[Upload])
    fields: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])


def uploads(
    limits: UploadLimits, *, folder: Path | None = None
) -> Callable[[web.Request], AbstractAsyncContextManager[Form]]:
    """Receive a `multipart/form-data` body into a directory of its own below `folder`.

    At the end of the `async with`, however it ends, what is still there is removed: to keep a file,
    move it (`os.replace`, in a thread) to the same file system. Raises 415 for another type, 413
    above a limit, 408 after the deadline, 400 for a malformed body, and ConnectionResetError when
    the client left.
    """

    @asynccontextmanager
    async def receive(request: web.Request) -> AsyncGenerator[Form]:
        if request.content_type != "multipart/form-data":
            text = "The body has to be multipart/form-data."
            accept = {"Accept": "multipart/form-data"}
            raise _last(web.HTTPUnsupportedMediaType(text=text, headers=accept))
        if (request.content_length or 0) > limits.body:
            raise _too_large(limits.body)
        make = partial(tempfile.mkdtemp, prefix="upload-", dir=folder)
        directory = Path(await asyncio.to_thread(make))
        try:
            yield await _receive(request, limits, directory)
        finally:
            await _finished(shutil.rmtree, directory, True)

    return receive


def safe_name(name: str) -> str:
    """A file name without folders, control characters, leading dots or surprising length."""
    last = re.split(r"[/\\]", normalize("NFC", name))[-1]
    clean = re.sub(r"[^\w.() -]", "_", last).strip(" .")
    stem, dot, suffix = clean.rpartition(".")
    kept = f"{stem[:80]}.{suffix[:16]}" if dot else clean[:80]
    return kept or "file"


async def _receive(request: web.Request, limits: UploadLimits, directory: Path) -> Form:
    form = Form()
    try:
        async with asyncio.timeout(limits.seconds):
            reader = await request.multipart()
            while (part := await reader.next()) is not None:
                if len(form.files) + len(form.fields) >= limits.parts:
                    text = f"The form has more than {limits.parts} parts."
                    raise _last(web.HTTPRequestEntityTooLarge(limits.parts, text=text))
                await _add(request, form, part, limits, directory)
    except TimeoutError:
        raise _last(web.HTTPRequestTimeout(text="The request body came too late.")) from None
    except (ValueError, BadHttpMessage, web.RequestPayloadError, RuntimeError, OSError) as error:
        if request.transport is None:
            raise ConnectionResetError("the client left before its body was read") from error
        if isinstance(error, OSError | RuntimeError):
            raise  # the disk's
        raise _last(web.HTTPBadRequest(text="The body is not valid form data.")) from error
    return form


async def _add(
    request: web.Request,
    form: Form,
    part: MultipartReader | BodyPartReader,
    limits: UploadLimits,
    directory: Path,
) -> None:
    if isinstance(part, MultipartReader) or not part.name:
        raise ValueError("a part is nested or has no name")
    if part.filename is None:
        form.fields.append((part.name, await _text(request, part, limits)))
    else:
        file = directory / str(len(form.files))
        form.files.append(await _file(request, part, limits, file))


async def _text(request: web.Request, part: BodyPartReader, limits: UploadLimits) -> str:
    chunks = _chunks(request, part, limits.text, limits.body)
    return b"".join([chunk async for chunk in chunks]).decode()


async def _file(
    request: web.Request, part: BodyPartReader, limits: UploadLimits, path: Path
) -> Upload:
    size, opened = 0, await _finished(path.open, "xb")
    try:
        async for chunk in _chunks(request, part, limits.file, limits.body):
            await _finished(_write, opened, chunk)
            size += len(chunk)
    finally:
        await _finished(opened.close)
    kind = part.headers.get("Content-Type", "application/octet-stream")
    return Upload(part.name or "", safe_name(part.filename or ""), kind, path, size)


async def _chunks(
    request: web.Request, part: BodyPartReader, most: int, body: int
) -> AsyncGenerator[bytes]:
    size = 0
    while chunk := await part.read_chunk(CHUNK):
        size += len(chunk)
        if size > most:
            raise _too_large(most)
        if request.content.total_bytes > body + CHUNK:  # it counts what was read ahead
            raise _too_large(body)
        yield chunk


def _write(file: IO[bytes], data: bytes) -> None:
    file.write(data)


async def _finished(work: Callable[..., T], *args: object) -> T:
    """Run in a thread, and if cancelled wait for it: two threads must not have one file."""
    running = asyncio.ensure_future(asyncio.to_thread(work, *args))
    try:
        return await asyncio.shield(running)
    finally:
        await asyncio.wait({running})


def _too_large(most: int) -> web.HTTPException:
    text = f"The upload is larger than the {most} bytes allowed."
    return _last(web.HTTPRequestEntityTooLarge(most, text=text))


def _last(error: web.HTTPException) -> web.HTTPException:
    """The rest of the body is not wanted, so this is the connection's last answer."""
    error.force_close()
    return error
