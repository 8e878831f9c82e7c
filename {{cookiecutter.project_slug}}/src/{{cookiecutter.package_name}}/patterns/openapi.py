"""OpenAPI 3.1, made at start out of the router and of what the handlers say about themselves.

A description that is kept by hand, or in docstrings, is wrong by the second release.

Wiring::

    app.router.add_get("/openapi.json", serve_openapi)
    app.on_startup.append(openapi(title="Books", version="1.0.0", describe=operation))

Needs: aiohttp>=3.14.4, pydantic>=2.12
Order: a startup callback of the outermost application; `serve_openapi` is a handler like others.
Not: a page to read it with. Static files, and `*` routes but those of views, are not described.
"""

import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from http import HTTPStatus
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

from aiohttp import hdrs, web
from pydantic import TypeAdapter
from pydantic_core import to_json, to_jsonable_python

__all__ = ["OPENAPI", "answers", "openapi", "routes_of", "serve_openapi"]

Json = dict[str, Any]
Schema = Callable[[TypeAdapter[object], Literal["validation", "serialization"]], Json]
Marked = TypeVar("Marked", bound=Callable[..., object])

OPENAPI = web.AppKey("openapi", bytes)
ANSWERS = "__openapi_answers__"
REF = "#/components/schemas/"
STRING: Json = {"type": "string"}
LOC: Json = {"type": "array", "items": {"type": ["string", "integer"]}}
ERROR: Json = {"type": "object", "properties": {"loc": LOC, "msg": STRING, "type": STRING}}
PROBLEM: Json = {
    "title": "Problem",
    "description": "What went wrong, as RFC 9457 has it.",
    "type": "object",
    "properties": {
        **dict.fromkeys(("type", "title", "detail", "instance", "request_id"), STRING),
        "status": {"type": "integer"},
        "errors": {"type": "array", "items": ERROR},
    },
    "required": ["type", "title", "status"],
}
HEADERS: Mapping[int, Json] = {
    401: {"WWW-Authenticate": {"schema": STRING}},
    503: {"Retry-After": {"schema": {"type": "integer"}}},
}


class Part(Protocol):
    """A `name` in path, query or header; or, with a `media_type`, the body."""

    place: str
    name: str
    media_type: str
    adapter: TypeAdapter[object]


class Operation(Protocol):
    """What a handler takes, by its parameters' names, and gives; `defaults` may be absent."""

    @property
    def doc(self) -> str: ...
    @property
    def parts(self) -> Mapping[str, Part]: ...
    @property
    def defaults(self) -> Mapping[str, object]: ...
    @property
    def response(self) -> TypeAdapter[object] | None: ...
    @property
    def statuses(self) -> tuple[int, ...]: ...


class Route(NamedTuple):
    """A path of the router with one method, a class-based view being a route for each of its."""

    method: str
    path: str
    handler: object


def answers(*statuses: int, media_type: str = "") -> Callable[[Marked], Marked]:
    """Mark a handler as able to answer so beside what it returns: errors, streams, handshakes."""

    def mark(handler: Marked) -> Marked:
        known: Mapping[int, str] = getattr(handler, ANSWERS, {})
        setattr(handler, ANSWERS, {**known, **dict.fromkeys(statuses, media_type)})
        return handler

    return mark


def openapi(
    *,
    title: str,
    version: str,
    describe: Callable[[object, str], Operation | None],
    scopes: Callable[[object, str], frozenset[str] | None] = lambda handler, method: None,
) -> Callable[[web.Application], Awaitable[None]]:
    """A startup callback that makes the document, which is then under `OPENAPI`.

    `describe` and `scopes` are asked about each handler and method: what it takes and gives, and
    which scopes a bearer token needs, None when it needs no token. Raises ValueError when a
    handler takes a name from the path that its route does not have.
    """

    async def make(app: web.Application) -> None:
        found = {route: describe(route.handler, route.method) for route in routes_of(app)}
        schema, schemas = _schemas([each for each in found.values() if each is not None])
        paths: dict[str, Json] = {}
        for route, operation in found.items():
            made = _operation(route, operation, schema, scopes(route.handler, route.method))
            paths.setdefault(route.path, {})[route.method.lower()] = made
        document = {
            "openapi": "3.1.0",
            "info": {"title": title, "version": version},
            "paths": paths,
            "components": {"schemas": schemas, "securitySchemes": {"bearer": BEARER}},
        }
        app[OPENAPI] = to_json(document)

    return make


async def serve_openapi(request: web.Request) -> web.Response:
    """The document, as it was made at start."""
    return web.Response(body=request.config_dict[OPENAPI], content_type="application/json")


def routes_of(app: web.Application) -> Iterator[Route]:
    """All routes, those of sub-applications too, but without the HEAD that comes with a GET."""
    for route in app.router.routes():
        if route.resource is None or isinstance(route.resource, web.StaticResource):
            continue
        handler, methods = route.handler, {route.method}
        if isinstance(handler, type):
            methods = {method for method in METHODS if hasattr(handler, method.lower())}
        beside = methods | {each.method for each in route.resource}
        for method in sorted(methods & METHODS):
            if method != "HEAD" or "GET" not in beside:
                yield Route(method, route.resource.canonical, handler)


def _schemas(operations: list[Operation]) -> tuple[Schema, Json]:
    """The schema of each adapter, and those of the models that they refer to by name."""
    asked: list[tuple[int, Mode, TypeAdapter[object]]] = []
    for operation in operations:
        for part in operation.parts.values():
            asked.append((id(part.adapter), "validation", part.adapter))
        if operation.response is not None:
            asked.append((id(operation.response), "serialization", operation.response))
    schemas, more = TypeAdapter.json_schemas(asked, ref_template=REF + "{model}")
    named = {**more.get("$defs", {}), "Problem": PROBLEM}
    return lambda adapter, mode: schemas[id(adapter), mode], named


def _operation(
    route: Route, operation: Operation | None, schema: Schema, needed: frozenset[str] | None
) -> Json:
    handler = getattr(route.handler, route.method.lower(), route.handler)
    doc = operation.doc if operation is not None else inspect.getdoc(handler) or ""
    parts = operation.parts if operation is not None else {}
    summary, _, description = doc.partition("\n")
    made: Json = {
        "operationId": re.sub(r"\W+", "_", f"{route.method.lower()}{route.path}").strip("_"),
        "tags": [handler.__module__.rpartition(".")[2]],
        "summary": summary,
        "description": description.strip(),
        "parameters": _parameters(route, operation, schema),
        "responses": _responses(..),
        "security": [] if needed is None else [{"bearer": sorted(needed)}],
    }
    for name, part in parts.items():
        if part.media_type:
            content = {part.media_type: {"schema": schema(part.adapter, "validation")}}
            made["requestBody"] = {"content": content, "required": name not in operation.defaults}
    return made


def _parameters(route: Route, operation: Operation | None, schema: Schema) -> list[Json]:
    made: dict[str, Json] = {}
    in_path = dict.fromkeys(re.findall(r"{(\w+)}", route.path))
    found = [{"name":..}]
    ...


def _text(schema: Json, default) -> Json:
    """There is no null in a URL: a parameter that may be None may be left out."""
    kinds = [each for each in schema.pop("anyOf", []) if each != {"type": "null"}]
