"""Swagger UI for an OpenAPI document, out of an installed package: no network, a strict policy.

The usual page loads its scripts from somebody else's server and wants a policy that allows it.

Wiring::

    pages = docs_page(title="Books", openapi_url="openapi.json")
    app.add_routes(web.get(path, page) for path, page in pages.items())

Needs: aiohttp>=3.14.4, offapi>=0.1.4
Order: none. Where routes need a token, mark these as public.
Not: the document itself; compression, which its 1.8 MB are worth on a slow network.
"""

import json
from collections.abc import Mapping
from html import escape
from importlib.metadata import distribution
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Handler

__all__ = ["docs_page"]

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>%(title)s</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="%(base)s/ui.css?v=%(version)s">
<div id="docs"></div>
<script src="%(base)s/ui.js?v=%(version)s"></script>
<script src="%(base)s/start.js"></script>
"""
FILES = {"ui.css": ("swagger_style.css", "text/css"), "ui.js": ("swagger_bundle.js", "text/javascript")}
FOREVER = "public, max-age=31536000, immutable"  # the version is in the URL


def docs_page(*, title: str, openapi_url: str, path: str = "/docs") -> Mapping[str, Handler]:
    """The page and its assets: handlers by their paths, which are `path` and three below it.

    `openapi_url` may be relative to the page. Raises PackageNotFoundError without the package, and
    FileNotFoundError when it no longer holds what is served.
    """
    ui = distribution("offapi")  # found, not imported: importing it reads and copies all its files
    names = {"title": escape(title), "base": path.rpartition("/")[2], "version": ui.version}
    options = {"url": openapi_url, "dom_id": "#docs", "deepLinking": True, "validatorUrl": None}
    start = f"SwaggerUIBundle({json.dumps(options)});\n"
    pages = {
        path: _text(PAGE % names, "text/html", {"Content-Security-Policy": POLICY}),
        f"{path}/start.js": _text(start, "text/javascript", {}),
    }
    for name, (packaged, content_type) in FILES.items():
        file = Path(str(ui.locate_file("offapi"))).joinpath(packaged).resolve(strict=True)
        pages[f"{path}/{name}"] = _file(file, content_type)
    return pages


def _text(text: str, content_type: str, headers: Mapping[str, str]) -> Handler:
    async def page(request: web.Request) -> web.StreamResponse:
        """Read the API's documentation, and try it."""
        return web.Response(text=text, content_type=content_type, headers=headers)

    return page


def _file(file: Path, content_type: str) -> Handler:
    headers = {"Content-Type": f"{content_type}; charset=utf-8", "Cache-Control": FOREVER}

    async def asset(request: web.Request) -> web.StreamResponse:
        """A part of the documentation's page."""
        return web.FileResponse(file, headers=headers)

    return asset
