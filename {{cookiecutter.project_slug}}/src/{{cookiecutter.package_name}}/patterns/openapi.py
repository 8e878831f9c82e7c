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
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence, Set
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
HEADERS = {201: ["Location"], 401: ["WWW-Authenticate"], 503: ["Retry-After"]}
TEXT = {"type": "string"}


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


# What a handler takes by its parameters' names, the defaults of what may be absent, what it gives.
Gives = Mapping[int, TypeAdapter[object] | None]
Operation = tuple[Mapping[str, Part], Mapping[str, object], Gives]


def answers(*statuses: int, media_type: str = "") -> Callable[[Marked], Marked]:
    """Mark a handler as able to answer so beside what it returns: errors, streams, handshakes."""

    def mark(handler: Marked) -> Marked:
        known: Mapping[int, str] = vars(handler).get(ANSWERS, {})
        setattr(handler, ANSWERS, {**known, **dict.fromkeys(statuses, media_type)})
        return handler

    return mark


async def serve_openapi(request: web.Request) -> web.Response:
    """Read this description, in OpenAPI 3.1."""
    return web.Response(body=request.config_dict[OPENAPI], content_type="application/json")


def routes_of(app: web.Application) -> Iterator[tuple[str, str, object]]:
    """Method, path and handler, or view, of all that is described, sub-applications included."""
    for route in app.router.routes():
        if route.resource is None or isinstance(route.resource, web.StaticResource):
            continue
        view = route.handler if isinstance(route.handler, type) else None
        for method in sorted(METHODS):
            if hasattr(view, method.lower()) if view else method == route.method:
                yield method, route.resource.canonical, route.handler


def openapi(
    *,
    title: str,
    version: str,
    describe: Callable[[object, str], Operation | None],
    scopes: Callable[[object, str], Set[str] | None] = lambda handler, method: None,
    headers: Sequence[str] = (),
) -> Callable[[web.Application], Awaitable[None]]:
    """A startup callback that makes the document, which is then under `OPENAPI`.

    `describe` and `scopes` tell of each handler and method what it takes and gives, and which
    scopes its token needs, None for no token; every answer has the `headers`. Raises ValueError
    for a name that a path lacks.
    """

    async def make(app: web.Application) -> None:
        routes = [(*each, describe(each[2], each[0]) or ({}, {}, {})) for each in routes_of(app)]
        schemas, named = _schemas(operation for *_, operation in routes)
        paths: dict[str, Json] = {}
        ids: Counter[str] = Counter()
        for method, path, handler, operation in routes:
            function, needed = getattr(handler, method.lower(), handler), scopes(handler, method)
            name = re.sub(r"\W+", "_", f"{method.lower()}{path}").strip("_")
            ids[name] += 1
            made: Json = {"operationId": f"{name}_{ids[name]}" if ids[name] > 1 else name}
            made["security"] = [] if needed is None else [{"bearer": sorted(needed)}]
            made |= _said(function) | _taken(path, operation, schemas)
            contents = _contents(function, operation[2], schemas, made)
            made["responses"] = {str(n): _response(n, contents[n], headers) for n in contents}
            paths.setdefault(path, {})[method.lower()] = made
        components = {"schemas": named, "securitySchemes": {"bearer": BEARER}}
        document: Json = {"info": {"title": title, "version": version}, "paths": paths}
        app[OPENAPI] = to_json({"openapi": "3.1.0", **document, "components": components})

    return make


def _said(function: Any) -> Json:
    summary, _, more = (inspect.getdoc(function) or "").partition("\n")
    tags = [function.__module__.rpartition(".")[2]]
    return {"tags": tags, "summary": summary, "description": more.strip()}


def _schemas(operations: Iterable[Operation]) -> tuple[Schemas, Json]:
    """The schema of each adapter, by its id, and those of the models that they refer to."""
    asked: list[tuple[int, Mode, TypeAdapter[Any]]] = [(0, "serialization", TypeAdapter(Problem))]
    for parts, _, gives in operations:
        asked.extend((id(each.adapter), "validation", each.adapter) for each in parts.values())
        asked.extend((id(each), "serialization", each) for each in gives.values() if each)
    schemas, more = TypeAdapter.json_schemas(asked, ref_template="#/components/schemas/{model}")
    return schemas, more["$defs"]


def _taken(path: str, operation: Operation, schemas: Schemas) -> Json:
    """The parameters, at least those that the path has, and the body."""
    parts, defaults, _ = operation
    made: Json = {}
    found = {("path", name): _parameter(TEXT) for name in re.findall(r"{(\w+)}", path)}
    for name, part in parts.items():
        schema, optional = schemas[id(part.adapter), "validation"], name in defaults
        if part.media_type:
            content = {part.media_type: {"schema": schema}}
            made["requestBody"] = {"required": not optional, "content": content}
        elif part.place == "path" and ("path", part.name) not in found:
            raise ValueError(f"{path} has no {part.name!r}, which its handler takes from there")
        elif part.place in ("path", "query", "header"):
            default = [defaults[name]] if optional else []
            found[part.place, part.name] = _parameter(schema, *default)
    made["parameters"] = [{"in": key[0], "name": key[1], **found[key]} for key in found]
    return made


def _parameter(schema: Json, *default: object) -> Json:
    """Text has no null: what may be None may be left out."""
    kinds = [kind for kind in schema.get("anyOf", []) if kind != {"type": "null"}]
    made = {**schema, "anyOf": kinds} if kinds else {**schema}
    if default and default[0] is not None:
        made["default"] = to_jsonable_python(default[0])
    return {"required": not default, "schema": made}


def _contents(func: object, gives: Gives, schemas: Schemas, made: Json) -> dict[int, Json]:
    """Its own, those of its marks, and those of the middlewares, the router and the reading."""
    errors = {400, 500, 503}
    errors.update((408, 413, 415, 422) if "requestBody" in made else ())
    errors.update(*((404, 422) if each["in"] == "path" else (422,) for each in made["parameters"]))
    errors.update(*((401, 403) if each["bearer"] else (401,) for each in made["security"]))
    problem = {"application/problem+json": {"schema": schemas[0, "serialization"]}}
    found: dict[int, Json] = dict.fromkeys(errors, problem)
    for status, adapter in gives.items():
        found[status] = {}
        if adapter:
            found[status] = {"application/json": {"schema": schemas[id(adapter), "serialization"]}}
    marked: Mapping[int, str] = getattr(func, ANSWERS, {})
    for status, media_type in marked.items():
        found[status] = problem if status >= 400 else {media_type: {}} if media_type else {}
    return dict(sorted((found if min(found) < 400 else {200: {}, **found}).items()))


def _response(status: int, content: Json, always: Sequence[str]) -> Json:
    headers: Json = {name: {"schema": TEXT} for name in HEADERS.get(status, ())}
    headers |= {name: {"schema": TEXT, "required": True} for name in always}
    return {"description": HTTPStatus(status).phrase, "content": content, "headers": headers}
