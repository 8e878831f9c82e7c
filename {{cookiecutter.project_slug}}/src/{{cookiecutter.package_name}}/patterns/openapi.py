"""OpenAPI 3.1, made at start out of the router and of what the handlers say about themselves.

A description that is kept by hand, or in docstrings, is wrong by the second release.

Wiring::

    app.router.add_get("/openapi.json", serve_openapi)
    app.on_startup.append(openapi(title="Books", version="1.0.0", describe=operation))

Needs: aiohttp>=3.14.4, pydantic>=2.12
Order: a startup callback of the outermost application; `serve_openapi` is a handler like others.
Not: a page to read it with. Static files, HEAD, and `*` but for views, are not described.
"""

import inspect
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Set
from http import HTTPStatus
from typing import Any, Literal, Protocol, TypeVar

from aiohttp import hdrs, web
from pydantic import BaseModel, TypeAdapter
from pydantic_core import to_json, to_jsonable_python

__all__ = ["OPENAPI", "answers", "openapi", "routes_of", "serve_openapi"]

Json = dict[str, Any]
Mode = Literal["validation", "serialization"]
Schemas = Mapping[tuple[int, Mode], Json]
Marked = TypeVar("Marked", bound=Callable[..., object])

OPENAPI = web.AppKey("openapi", bytes)
ANSWERS = "__openapi_answers__"
METHODS = hdrs.METH_ALL - {hdrs.METH_CONNECT, hdrs.METH_HEAD}
BEARER = {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}


class Problem(BaseModel):
    """What went wrong, in the words of RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    request_id: str = ""
    errors: list[dict[str, str | list[str | int]]] = []


class Part(Protocol):
    """A `name` in path, query or header; or, with a `media_type`, the body."""

    place: str
    name: str
    media_type: str
    adapter: TypeAdapter[object]


class Operation(Protocol):
    """What a handler takes, by its parameters' names, and gives; `defaults` may be absent."""

    @property
    def parts(self) -> Mapping[str, Part]: ...
    @property
    def defaults(self) -> Mapping[str, object]: ...
    @property
    def responses(self) -> Mapping[int, TypeAdapter[object] | None]: ...


def answers(*statuses: int, media_type: str = "") -> Callable[[Marked], Marked]:
    """Mark a handler as able to answer so beside what it returns: errors, streams, handshakes."""

    def mark(handler: Marked) -> Marked:
        known: Mapping[int, str] = vars(handler).get(ANSWERS, {})
        setattr(handler, ANSWERS, {**known, **dict.fromkeys(statuses, media_type)})
        return handler

    return mark


async def serve_openapi(request: web.Request) -> web.Response:
    """The document, as it was made at start."""
    return web.Response(body=request.config_dict[OPENAPI], content_type="application/json")


def routes_of(app: web.Application) -> Iterator[tuple[str, str, object]]:
    """Method, path and handler, or view, of all that is described, sub-applications included."""
    for route in app.router.routes():
        if route.resource is None or isinstance(route.resource, web.StaticResource):
            continue
        methods = {route.method}
        if isinstance(route.handler, type):
            methods = {method for method in METHODS if hasattr(route.handler, method.lower())}
        for method in sorted(methods & METHODS):
            yield method, route.resource.canonical, route.handler


def openapi(
    *,
    title: str,
    version: str,
    describe: Callable[[object, str], Operation | None],
    scopes: Callable[[object, str], Set[str] | None] = lambda handler, method: None,
) -> Callable[[web.Application], Awaitable[None]]:
    """A startup callback that makes the document, which is then under `OPENAPI`.

    `describe` and `scopes` tell of each handler and method what it takes and gives, and which
    scopes its token needs, None for no token. Raises ValueError for a name that a path lacks.
    """

    async def make(app: web.Application) -> None:
        routes = [(*route, describe(route[2], route[0])) for route in routes_of(app)]
        schemas, named = _schemas(operation for *_, operation in routes if operation is not None)
        paths: dict[str, Json] = {}
        ids: Counter[str] = Counter()
        for method, path, handler, operation in routes:
            function = getattr(handler, method.lower(), handler)
            summary, _, more = (inspect.getdoc(function) or "").partition("\n")
            needed = scopes(handler, method)
            name = re.sub(r"\W+", "_", f"{method.lower()}{path}").strip("_")
            ids[name] += 1
            made: Json = {
                "operationId": f"{name}_{ids[name]}" if ids[name] > 1 else name,
                "tags": [function.__module__.rpartition(".")[2]],
                "summary": summary,
                "description": more.strip(),
                "security": [] if needed is None else [{"bearer": sorted(needed)}],
                **_taken(path, operation, schemas),
            }
            made["responses"] = _responses(function, operation, schemas, made)
            paths.setdefault(path, {})[method.lower()] = made
        components = {"schemas": named, "securitySchemes": {"bearer": BEARER}}
        document: Json = {"info": {"title": title, "version": version}, "paths": paths}
        app[OPENAPI] = to_json({"openapi": "3.1.0", **document, "components": components})

    return make


def _schemas(operations: Iterable[Operation]) -> tuple[Schemas, Json]:
    """The schema of each adapter, by its id, and those of the models that they refer to."""
    asked: list[tuple[int, Mode, TypeAdapter[Any]]] = [(0, "serialization", TypeAdapter(Problem))]
    for operation in operations:
        takes = [part.adapter for part in operation.parts.values()]
        asked.extend((id(adapter), "validation", adapter) for adapter in takes)
        gives = [adapter for adapter in operation.responses.values() if adapter is not None]
        asked.extend((id(adapter), "serialization", adapter) for adapter in gives)
    schemas, more = TypeAdapter.json_schemas(asked, ref_template="#/components/schemas/{model}")
    return schemas, more["$defs"]


def _taken(path: str, operation: Operation | None, schemas: Schemas) -> Json:
    """The parameters, at least those that the path has, and the body."""
    parts: Mapping[str, Part] = operation.parts if operation is not None else {}
    defaults: Mapping[str, object] = operation.defaults if operation is not None else {}
    made: Json = {}
    names = re.findall(r"{(\w+)}", path)
    found = {("path", name): _parameter({"type": "string"}) for name in names}
    for name, part in parts.items():
        schema, optional = schemas[id(part.adapter), "validation"], name in defaults
        if part.media_type:
            content = {part.media_type: {"schema": schema}}
            made["requestBody"] = {"required": not optional, "content": content}
        elif part.place == "path" and part.name not in names:
            raise ValueError(f"{path} has no {part.name!r}, which its handler takes from there")
        elif part.place in ("path", "query", "header"):
            default = [defaults[name]] if optional else []
            found[part.place, part.name] = _parameter(schema, *default)
    parameters = [{"in": place, "name": name, **each} for (place, name), each in found.items()]
    return {"parameters": parameters, **made}


def _parameter(schema: Json, *default: object) -> Json:
    """Text has no null: what may be None may be left out."""
    kinds = [kind for kind in schema.get("anyOf", []) if kind != {"type": "null"}]
    made = {**schema, "anyOf": kinds} if kinds else {**schema}
    if default and default[0] is not None:
        made["default"] = to_jsonable_python(default[0])
    return {"required": not default, "schema": made}


def _responses(func: object, operation: Operation | None, schemas: Schemas, made: Json) -> Json:
    """Its own, those of its marks, and those of the middlewares, the router and the reading."""
    errors = {400, 500, 503}
    errors.update((408, 413, 415, 422) if "requestBody" in made else ())
    errors.update(*((404, 422) if each["in"] == "path" else (422,) for each in made["parameters"]))
    errors.update(*((401, 403) if each["bearer"] else (401,) for each in made["security"]))
    problem = {"application/problem+json": {"schema": schemas[0, "serialization"]}}
    contents: dict[int, Json] = dict.fromkeys(errors, problem)
    for status, adapter in operation.responses.items() if operation is not None else ():
        schema = schemas[id(adapter), "serialization"] if adapter is not None else None
        contents[status] = {"application/json": {"schema": schema}} if schema else {}
    marked: Mapping[int, str] = getattr(func, ANSWERS, {})
    for status, media_type in marked.items():
        contents[status] = problem if status >= 400 else {media_type: {}} if media_type else {}
    contents |= {200: {}} if min(contents) >= 400 else {}
    return {
        str(status): {"description": HTTPStatus(status).phrase, "content": content}
        for status, content in sorted(contents.items())
    }
