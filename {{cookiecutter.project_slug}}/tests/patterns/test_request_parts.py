import asyncio
from collections.abc import Awaitable, Callable
from enum import IntEnum
from textwrap import dedent
from typing import Annotated, Any, Literal, get_args
from uuid import UUID

import pytest
from aiohttp import FormData, web
from aiohttp.test_utils import TestClient
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pytest_aiohttp.plugin import AiohttpClient

from {{cookiecutter.package_name}}.patterns import request_parts as pattern
from {{cookiecutter.package_name}}.patterns.request_parts import (
    READ_BODY,
    Body,
    Form,
    Header,
    Name,
    Part,
    Path,
    Query,
)

Client = TestClient[web.Request, web.Application]
Serve = Callable[..., Awaitable[Client]]
LETTER = Query[Literal["a", "b"]]
LIST = Query[list[int]]
OPTIONAL = Query[str | None]
OPTIONAL_LIST = Query[list[int] | None]
JSON = {"Content-Type": "application/json"}


class Size(IntEnum):
    SMALL = 1


class Book(BaseModel):
    model_config = ConfigDict(extra="forbid")
    title: Annotated[str, Field(min_length=1)]
    pages: int = 1
    price: float = 1.0
    tags: list[str] = []
    within: "Book | None" = None


def part(annotation: object, name: str = "n") -> Part:
    made = get_args(annotation)[-1].part(name, annotation)
    assert isinstance(made, Part)
    return made


@pytest.fixture
def serve(aiohttp_client: AiohttpClient) -> Serve:
    """A server that answers with what the part read, or why not."""

    async def start(annotation: object, name: str = "n") -> Client:
        read = part(annotation, name).read

        async def show(request: web.Request) -> web.Response:
            try:
                return web.json_response(repr(await read(request)))
            except ValidationError as error:
                return web.json_response([each["type"] for each in error.errors()])
            except LookupError:
                return web.json_response(None)

        app = web.Application(client_max_size=2**22)
        app.router.add_post("/{n}", show)
        return await aiohttp_client(app)

    return start


async def got(client: Client, path: str, **how: Any) -> object:
    async with client.post(path, **how) as response:
        return await response.json() if response.status == 200 else response.status


def test_the_wiring_runs() -> None:
    wiring = (pattern.__doc__ or "").split("Wiring::")[1].split("Needs:")[0]
    names = vars(pattern) | {"app": web.Application(), "typed": lambda f: f, "Book": Book}
    exec(dedent(wiring), names)  # noqa: S102


@pytest.mark.parametrize(
    ("annotation", "query", "value"),
    [
        (Query[int], "n=7", "7"),
        (Query[int], "n=x", ["int_parsing"]),
        (Query[int], "n=" + "9" * 5000, ["int_parsing_size"]),
        (Query[Annotated[int, Field(le=9)]], "n=10", ["less_than_equal"]),
        (Query[int], "m=1", None),
        (Query[int], "n=1&n=2", ["int_type"]),
        (Query[str], "n=1&n=1", ["string_type"]),
        (LIST, "n=1", "[1]"),
        (OPTIONAL_LIST, "n=1&n=2", "[1, 2]"),
        (OPTIONAL, "n=", "''"),
        (Query[float], "n=nan", ["finite_number"]),
        (Query[Size], "n=1", "<Size.SMALL: 1>"),
        (LETTER, "n=c", ["literal_error"]),
        (Query[bool], "n=true", "True"),
        (Query[str], "n=%FF%00", "'\ufffd\\x00'"),
        (Query[Annotated[int, Name("from")]], "from=3", "3"),
    ],
)
async def test_text_in_a_query_is_converted_to_its_type(
    serve: Serve, annotation: object, query: str, value: object
) -> None:
    assert await got(await serve(annotation), f"/x?{query}") == value


async def test_a_path_is_converted_to_its_type(serve: Serve) -> None:
    client = await serve(Path[UUID])
    assert await got(client, f"/{UUID(int=1)}") == repr(UUID(int=1))
    assert await got(client, "/x") == ["uuid_parsing"]


async def test_a_header_is_named_like_its_parameter_with_hyphens(serve: Serve) -> None:
    client = await serve(Header[int], "x_retry_count")
    assert await got(client, "/x", headers={"X-Retry-Count": "3"}) == "3"
    assert await got(client, "/x") is None


async def test_a_header_can_be_renamed(serve: Serve) -> None:
    client = await serve(Header[Annotated[str, Name("If-Match")]], "etag")
    assert await got(client, "/x", headers={"if-match": "a"}) == "'a'"


async def test_a_header_that_is_not_utf_8_can_be_encoded_all_the_same(serve: Serve) -> None:
    client = await serve(Header[str])
    reader, writer = await asyncio.open_connection(client.host, client.port)
    writer.write(b"POST /x HTTP/1.1\r\nHost: x\r\nN: a\xff\r\nConnection: close\r\n\r\n")
    assert (await reader.read()).endswith(b"'a?'\"")
    writer.close()


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'{"title": "a"}', "Book(title='a', pages=1, price=1.0, tags=[], within=None)"),
        (b'{"title": "NaN"}', "Book(title='NaN', pages=1, price=1.0, tags=[], within=None)"),
        (b'{"title": ""}', ["string_too_short"]),
        (b'{"title": "a", "pages": "1"}', ["int_type"]),
        (b'{"title": "a", "more": 1}', ["extra_forbidden"]),
        (b"[]", ["model_type"]),
        (b"null", ["model_type"]),
        (b"{", 400),
        (b'{"title": "\xff"}', 400),
        (b'{"title": "\\ud800"}', 400),
        (b'{"title": "a", "price": NaN}', 400),
        (b'{"title": "a", "price": -Infinity}', 400),
        (b'{"title": "a", "pages": ' + b"9" * 5000 + b"}", 400),
        (b"[" * 100_000, 400),
        (b'{"within":' * 100_000, 400),
        (b"\xef\xbb\xbf{}", 400),
        (b"", None),
    ],
)
async def test_a_json_body_is_read_strictly(serve: Serve, body: bytes, value: object) -> None:
    assert await got(await serve(Body[Book]), "/x", data=body, headers=JSON) == value


async def test_no_body_and_no_type_is_an_absent_body(serve: Serve) -> None:
    assert await got(await serve(Body[Book]), "/x") is None


@pytest.mark.parametrize(
    ("content_type", "value"),
    [
        ("application/json; charset=UTF-8", "1"),
        ("application/merge-patch+json", "1"),
        ("Application/JSON", "1"),
        ("application/json; charset=latin-1", 415),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("", 415),
        ("///", 415),
    ],
)
async def test_a_json_body_needs_a_json_type(
    serve: Serve, content_type: str, value: object
) -> None:
    client = await serve(Body[int])
    assert await got(client, "/x", data=b"1", headers={"Content-Type": content_type}) == value


async def test_a_wrong_type_is_told_which_would_be_right(serve: Serve) -> None:
    client = await serve(Body[int])
    async with client.post("/x", data="1") as response:
        assert response.status == 415
        assert response.headers["Accept"] == "application/json"


async def test_a_form_is_converted_to_its_model(serve: Serve) -> None:
    client = await serve(Form[Book])
    form = FormData([("title", "ä b"), ("pages", "2"), ("tags", "x")])
    found = "Book(title='ä b', pages=2, price=1.0, tags=['x'], within=None)"
    assert await got(client, "/x", data=form) == found


@pytest.mark.parametrize(
    ("body", "value"),
    [
        ("title=", ["string_too_short"]),
        ("title=a&title=b", ["string_type"]),
        ("pages=1", ["missing"]),
        ("title=%FF", 400),
        ("a=1&" * 1001, 400),
    ],
)
async def test_a_bad_form_is_refused(serve: Serve, body: str, value: object) -> None:
    client = await serve(Form[Book])
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    assert await got(client, "/x", data=body.encode(), headers=headers) == value


async def test_a_form_that_is_json_is_refused(serve: Serve) -> None:
    assert await got(await serve(Form[Book]), "/x", json={"title": "a"}) == 415


async def test_the_body_is_read_with_the_reader_of_the_outermost_application(
    aiohttp_client: AiohttpClient,
) -> None:
    async def read_body(request: web.Request) -> bytes:
        raise web.HTTPRequestEntityTooLarge(1, text="too large")

    async def handler(request: web.Request) -> web.Response:
        return web.json_response(await part(Body[int]).read(request))

    app, sub = web.Application(), web.Application()
    app[READ_BODY] = read_body
    sub.router.add_post("/", handler)
    app.add_subapp("/sub", sub)
    assert await got(await aiohttp_client(app), "/sub/", json=1) == 413


def test_a_part_knows_where_it_is() -> None:
    assert (part(Query[int]).place, part(Query[int]).name) == ("query", "n")
    assert (part(Body[int]).place, part(Body[int]).name) == ("body", "")
    assert part(Form[Book]).media_type == "application/x-www-form-urlencoded"
