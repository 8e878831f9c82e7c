"""Static files: cached for ever where the name has a hash, revalidated where not, and nothing else.

`add_static` sends no `Cache-Control`, so a browser guesses, and shows yesterday's page with today's
script; its options list folders and follow links out of them.

Wiring::

    app.router.add_get("/{path:.*}", static_files("public", fallback="index.html"))

Needs: aiohttp>=3.14.4
Order: none; a handler, and the last route when its path takes everything. Mark it as public where
    routes need a token.
Not: a CDN, nor compression: put `app.js.gz` or `app.js.br` beside `app.js`, and aiohttp sends it.
    A page brings its `Content-Security-Policy` in `headers`.
"""

import asyncio
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

__all__ = ["has_hash", "static_files"]

YEAR = "public, max-age=31536000, immutable"  # RFC 8246
REVALIDATED = "no-cache"  # kept, but asked for each time: a 304 by its ETag
# Digits alone are a date, letters alone a word; a hash of those only is merely revalidated.
HASH = re.compile(r"[.-](?=[0-9a-f]*[a-f])(?=[0-9a-f]*[0-9])[0-9a-f]{8,}\.")


def has_hash(name: str) -> bool:
    """Whether a file's name carries a hash of its content (`app.3f2a9c1b.js`), as bundlers do."""
    return HASH.search(name) is not None


def static_files(
    folder: str | Path,
    *,
    fallback: str | None = None,
    immutable: Callable[[str], bool] = has_hash,
    headers: Mapping[str, str] | None = None,
) -> Handler:
    """A handler for `{path}` that sends regular files below `folder`, with ranges and `ETag`.

    The file's name decides: an `immutable` one may be kept for a year, any other is revalidated.
    Hidden files, folders and links that lead outside are 404, as if they were not there. A page's
    address that has no file gets `fallback`, so that the browser's own router finds it; a missing
    script or image stays 404. Raises ValueError when `folder` or `fallback` is not there.
    """
    root = Path(folder).resolve()
    page = None if fallback is None else _found(root, fallback)
    if not root.is_dir() or (fallback is not None and page is None):
        raise ValueError(f"no such folder, or no such fallback in it: {folder}")

    async def serve(request: web.Request) -> web.StreamResponse:
        name = request.match_info["path"]
        file = await asyncio.to_thread(_found, root, name)
        if file is None and page is not None and _is_page(request, name):
            file = page
        if file is None:
            raise web.HTTPNotFound(text="There is no such file.")
        control = YEAR if file is not page and immutable(file.name) else REVALIDATED
        given = {hdrs.CACHE_CONTROL: control, "X-Content-Type-Options": "nosniff"}
        return web.FileResponse(file, headers={**given, **(headers or {})})

    return serve


def _found(root: Path, name: str) -> Path | None:
    """The file of that name below `root`; the name comes from outside, percent-decoded."""
    try:
        parts = Path(name).parts
        file = (root / name).resolve()
        hidden = any(part.startswith(".") for part in parts)
        if hidden or name.endswith("/") or not file.is_relative_to(root):
            return None
        return file if file.is_file() else None
    except (OSError, ValueError):  # too long a name, a loop of links, a NUL
        return None


def _is_page(request: web.Request, name: str) -> bool:
    wanted = request.headers.get(hdrs.ACCEPT, "")
    return "text/html" in wanted and "." not in name.rpartition("/")[2]
