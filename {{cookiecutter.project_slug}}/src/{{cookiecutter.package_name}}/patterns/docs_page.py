"""Swagger UI for an OpenAPI document, out of an installed package: no network, a strict policy.

The usual page loads its scripts from somebody else's server and wants a policy that allows it.

Wiring::

    pages = docs_page(title="Books", openapi_url="openapi.json")
    app.add_routes(web.get(path, page) for path, page in pages.items())

Needs: aiohttp>=3.14.4, offapi>=0.1.4
Order: none. Where routes need a token, mark both as public.
Not: the document itself; compression, which its 1.8 MB are worth on a slow network.
"""

import json
from collections.abc import Mapping
from hashlib import sha256
from html import escape
from importlib.metadata import distribution
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Handler

__all__ = ["docs_page"]

TYPES = {".css": "text/css", ".js": "text/javascript"}
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
<link rel="stylesheet" href="%(base)s/ui.css?v=%(hash)s">
<div id="docs"></div>
<script src="%(base)s/ui.js?v=%(hash)s"></script>
<script src="%(base)s/start.js?v=%(hash)s"></script>
"""
START = """SwaggerUIBundle(%s);
const dark = matchMedia("(prefers-color-scheme: dark)").matches;
document.documentElement.classList.toggle("dark-mode", dark);
"""


def docs_page(*, title: str, openapi_url: str, path: str = "/docs") -> Mapping[str, Handler]:
    """The page and its assets: two handlers by their routes, `path` and one below it.

    `openapi_url` may be relative to the page. Raises PackageNotFoundError without the package, and
    FileNotFoundError should that no longer hold what is served.
    """
    # Found, not imported: an import would read all the interfaces that the package holds.
    package = Path(str(distribution("offapi").locate_file("offapi")))
    options = {"url": openapi_url, "dom_id": "#docs", "deepLinking": True, "validatorUrl": None}
    assets = {
        "ui.css": (package / "swagger_style.css").read_bytes(),
        "ui.js": (package / "swagger_bundle.js").read_bytes(),
        "start.js": (START % json.dumps(options)).encode(),
    }
    digest = sha256(b"".join(assets.values())).hexdigest()[:16]  # new contents have a new URL
    html = PAGE % {"title": escape(title), "base": path.rpartition("/")[2], "hash": digest}

    async def page(request: web.Request) -> web.Response:
        """Read about the API, and try it."""
        headers = {"Content-Security-Policy": POLICY}
        return web.Response(text=html, content_type="text/html", headers=headers)

    async def asset(request: web.Request) -> web.Response:
        """What the page about the API is made of."""
        name = request.match_info["name"]
        if name not in assets:
            raise web.HTTPNotFound
        headers = {"Cache-Control": "public, max-age=31536000, immutable"}
        kind = TYPES[Path(name).suffix]
        return web.Response(body=assets[name], content_type=kind, charset="utf-8", headers=headers)

    return {path: page, path + "/{name}": asset}
