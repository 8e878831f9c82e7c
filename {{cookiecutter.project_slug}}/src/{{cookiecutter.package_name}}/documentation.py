"""The API's own description: an OpenAPI document made from the handlers, and a page to read it."""

from importlib.metadata import PackageNotFoundError, version

from aiohttp import web

from .patterns.docs_page import docs_page
from .patterns.jwt_auth import public, required_scopes
from .patterns.openapi import openapi, serve_openapi
from .patterns.typed_handlers import operation

__all__ = ["add_documentation"]

TITLE = (__package__ or "").replace("_", " ").title()


def add_documentation(app: web.Application) -> None:
    """Add `/openapi.json`, and `/docs` with what its page is made of, all of them public."""
    pages = docs_page(title=TITLE, openapi_url="openapi.json")
    app.router.add_get("/openapi.json", public(serve_openapi))
    app.add_routes([web.get(path, public(page)) for path, page in pages.items()])
    try:
        release = version(__package__ or "")
    except PackageNotFoundError:  # run from a checkout that is not installed
        release = "0"
    # Made at start, when every route is known.
    make = openapi(
        title=TITLE,
        version=release,
        describe=operation,
        scopes=required_scopes,
        headers=["X-Request-ID"],
    )
    app.on_startup.append(make)
