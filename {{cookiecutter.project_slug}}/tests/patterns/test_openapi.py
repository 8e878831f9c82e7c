import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from textwrap import dedent
from typing import Any, NamedTuple

import pytest
from aiohttp import web
from pydantic import BaseModel, TypeAdapter
from pytest_aiohttp.plugin import AiohttpClient

from {{cookiecutter.package_name}}.patterns import openapi as pattern
from {{cookiecutter.package_name}}.patterns.openapi import (
    OPENAPI,
    answers,
    openapi,
    routes_of,
)


class Leaf(BaseModel):
    name: str
    leaves: list["Leaf"] = []


@dataclass
class Part:
    place: str
    name: str
    adapter: TypeAdapter[object]
    media_type: str = ""


class Operation(NamedTuple):
    parts: Mapping[str, Part] = {}
    defaults: Mapping[str, object] = {}
    responses: Mapping[int, TypeAdapter[object] | None] = {}


Describe = Callable[[object, str], Operation | None]
LEAF = TypeAdapter[object](Leaf)
INT = TypeAdapter[object](int)
OPTIONAL = TypeAdapter[object](int | None)


async def handler(request: web.Request) -> web.StreamResponse:
    """Do it.

    At length.
    """
    return web.Response()


class View(web.View):
    async def get(self) -> web.StreamResponse:
        """Look."""
        return web.Response()

    @answers(404)
    async def put(self) -> web.StreamResponse:
        return web.Response()


async def document(
    app: web.Application,
    describe: Describe = lambda handler, method: None,
    scopes: Callable[[object, str], frozenset[str] | None] = lambda handler, method: None,
) -> Any:
    await openapi(title="Books", version="1", describe=describe, scopes=scopes)(app)
    return json.loads(app[OPENAPI])


async def one(operation: Operation | None = None, path: str = "/", **how: Any) -> Any:
    """The description of one handler, at `path`."""
    app = web.Application()
    app.router.add_post(path, how.pop("handler", handler))
    made = await document(app, lambda handler, method: operation, **how)
    return made["paths"][path]["post"]


def statuses(operation: Any) -> list[int]:
    return [int(status) for status in operation["responses"]]


async def test_the_wiring_serves_the_document(aiohttp_client: AiohttpClient) -> None:
    app = web.Application()
    wiring = (pattern.__doc__ or "").split("Wiring::")[1].split("Needs:")[0]
    exec(dedent(wiring), vars(pattern) | {"app": app, "operation": lambda *_: None})  # noqa: S102
    async with (await aiohttp_client(app)).get("/openapi.json") as response:
        assert response.content_type == "application/json"
        made = await response.json()
    assert (made["openapi"], made["info"]) == ("3.1.0", {"title": "Books", "version": "1.0.0"})
    assert list(made["paths"]) == ["/openapi.json"]


async def test_the_routes_of_views_and_sub_applications_are_described() -> None:
    app, sub, inner = web.Application(), web.Application(), web.Application()
    inner.router.add_get(r"/deep/{id:\d+}", handler)
    sub.add_subapp("/inner", inner)
    sub.router.add_view("/view", View)
    app.add_subapp("/sub", sub)
    app.router.add_static("/static", ".")
    app.router.add_route("*", "/any", handler)
    assert [(method, path) for method, path, _ in routes_of(app)] == [
        ("GET", "/sub/inner/deep/{id}"),
        ("GET", "/sub/view"),
        ("PUT", "/sub/view"),
    ]
    paths = (await document(app))["paths"]
    assert paths["/sub/view"]["get"]["summary"] == "Look."
    assert "404" in paths["/sub/view"]["put"]["responses"]


async def test_a_handler_is_described_in_its_own_words() -> None:
    made = await one(path="/a/{b}")
    assert (made["summary"], made["description"]) == ("Do it.", "At length.")
    assert (made["operationId"], made["tags"]) == ("post_a_b", ["test_openapi"])


async def test_no_two_operations_have_the_same_id() -> None:
    app = web.Application()
    app.router.add_post("/a-b", handler)
    app.router.add_post("/a_b", handler)
    paths = (await document(app))["paths"]
    assert [paths[path]["post"]["operationId"] for path in paths] == ["post_a_b", "post_a_b_2"]


async def test_a_path_has_its_parameters_whether_described_or_not() -> None:
    made = await one(Operation({"i": Part("path", "i", INT)}), "/{i}/{j}")
    assert made["parameters"] == [
        {"in": "path", "name": "i", "required": True, "schema": {"type": "integer"}},
        {"in": "path", "name": "j", "required": True, "schema": {"type": "string"}},
    ]
    assert statuses(made) == [200, 400, 404, 422, 500, 503]


async def test_what_the_path_lacks_is_an_error_at_start() -> None:
    with pytest.raises(ValueError, match="'i'"):
        await one(Operation({"i": Part("path", "i", INT)}), "/")


async def test_text_that_may_be_none_may_be_left_out() -> None:
    parts = {"n": Part("query", "n", OPTIONAL), "h": Part("header", "h", INT)}
    made = await one(Operation(parts, {"n": None, "h": 7}))
    assert made["parameters"] == [
        {"in": "query", "name": "n", "required": False, "schema": {"anyOf": [{"type": "integer"}]}},
        {
            "in": "header",
            "name": "h",
            "required": False,
            "schema": {"type": "integer", "default": 7},
        },
    ]


async def test_what_is_neither_text_nor_body_is_not_described() -> None:
    assert (await one(Operation({"caller": Part("token", "sub", INT)})))["parameters"] == []


async def test_a_body_is_described_with_the_errors_of_reading_it() -> None:
    made = await one(Operation({"leaf": Part("body", "", LEAF, "application/json")}))
    schema = {"$ref": "#/components/schemas/Leaf"}
    content = {"application/json": {"schema": schema}}
    assert made["requestBody"] == {"required": True, "content": content}
    assert statuses(made) == [200, 400, 408, 413, 415, 422, 500, 503]


async def test_a_response_is_described_with_the_model_that_it_refers_to() -> None:
    app = web.Application()
    app.router.add_get("/", handler)
    made = await document(app, lambda handler, method: Operation(responses={201: LEAF, 204: None}))
    answered = made["paths"]["/"]["get"]["responses"]
    schema = {"$ref": "#/components/schemas/Leaf"}
    assert answered["201"]["content"] == {"application/json": {"schema": schema}}
    assert answered["204"] == {"description": "No Content", "content": {}, "headers": {}}
    assert made["components"]["schemas"]["Leaf"]["properties"]["leaves"]["items"] == schema


async def test_an_error_is_a_problem() -> None:
    schema = {"$ref": "#/components/schemas/Problem"}
    content = {"application/problem+json": {"schema": schema}}
    assert (await one())["responses"]["500"]["content"] == content


async def test_an_answer_has_the_headers_that_belong_to_its_status_and_those_of_all() -> None:
    app = web.Application()
    app.router.add_get("/", handler)
    await openapi(title="Books", version="1", describe=lambda *_: None, headers=["X-Id"])(app)
    answered = json.loads(app[OPENAPI])["paths"]["/"]["get"]["responses"]
    text = {"schema": {"type": "string"}}
    assert answered["200"]["headers"] == {"X-Id": text | {"required": True}}
    assert answered["503"]["headers"] == {"X-Id": text | {"required": True}, "Retry-After": text}


@pytest.mark.parametrize(
    ("needed", "security", "errors"),
    [
        (None, [], [200, 400, 500, 503]),
        (frozenset[str](), [{"bearer": []}], [200, 400, 401, 500, 503]),
        (frozenset({"b", "a"}), [{"bearer": ["a", "b"]}], [200, 400, 401, 403, 500, 503]),
    ],
)
async def test_the_scopes_that_a_token_needs_are_described(
    needed: frozenset[str] | None, security: object, errors: object
) -> None:
    made = await one(scopes=lambda handler, method: needed)
    assert (made["security"], statuses(made)) == (security, errors)


async def test_marks_add_what_annotations_cannot_say() -> None:
    @answers(502)
    @answers(200, media_type="text/event-stream")
    @answers(101)
    async def stream(request: web.Request) -> web.StreamResponse:
        raise NotImplementedError

    made = await one(handler=stream)
    assert statuses(made) == [101, 200, 400, 500, 502, 503]
    assert made["responses"]["200"]["content"] == {"text/event-stream": {}}
    assert made["responses"]["101"]["content"] == {}
    assert list(made["responses"]["502"]["content"]) == ["application/problem+json"]
