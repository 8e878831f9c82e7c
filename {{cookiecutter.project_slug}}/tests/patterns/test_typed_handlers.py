from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from textwrap import dedent
from typing import Annotated, Any, Literal, TypeAlias, TypeVar
from uuid import UUID

import pytest
from aiohttp import web
from aiohttp.typedefs import Handler
from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from pytest_aiohttp.plugin import AiohttpClient

from {{cookiecutter.package_name}}.patterns import typed_handlers as pattern
from {{cookiecutter.package_name}}.patterns.typed_handlers import (
    InvalidRequest,
    Reply,
    operation,
    typed,
    validation_errors,
)

T = TypeVar("T")
Got = tuple[int, Any]


@dataclass(frozen=True)
class OfQuery:
    """The least that a source has to do."""

    @dataclass(frozen=True)
    class Part:
        name: str
        adapter: TypeAdapter[object]
        read: Callable[[web.Request], Awaitable[object]]
        place: str = "query"
        media_type: str = ""

    def part(self, parameter: str, annotation: type[object]) -> "OfQuery.Part":
        adapter = TypeAdapter(annotation)

        async def read(request: web.Request) -> object:
            return adapter.validate_python(request.query[parameter])

        return self.Part(parameter, adapter, read)


@dataclass(frozen=True)
class OfBody:
    @dataclass(frozen=True)
    class Part:
        adapter: TypeAdapter[object]
        read: Callable[[web.Request], Awaitable[object]]
        name: str = ""
        place: str = "body"
        media_type: str = "application/json"

    def part(self, parameter: str, annotation: type[object]) -> "OfBody.Part":
        adapter = TypeAdapter(annotation)

        async def read(request: web.Request) -> object:
            if not request.body_exists:
                raise LookupError
            return adapter.validate_json(await request.read())

        return self.Part(adapter, read)


Query: TypeAlias = Annotated[T, OfQuery()]
Body: TypeAlias = Annotated[T, OfBody()]


class Cat(BaseModel):
    kind: Literal["cat"]


class Dog(BaseModel):
    kind: Literal["dog"]
    id: UUID
    legs: int = Field(default=4, serialization_alias="Legs")


Pet = Annotated[Cat | Dog, Field(discriminator="kind")]


@pytest.fixture
def ask(aiohttp_client: AiohttpClient) -> Callable[..., Awaitable[Got]]:
    """Status and body of one request to a handler; of an invalid one, its errors."""

    async def once(handler: Handler | type[web.View], path: str = "/", **how: Any) -> Got:
        @web.middleware
        async def problem(request: web.Request, handler: Handler) -> web.StreamResponse:
            try:
                return await handler(request)
            except InvalidRequest as error:
                return web.json_response(error.problem["errors"], status=error.status)

        app = web.Application(middlewares=[problem])
        app.router.add_route("*", "/", handler)
        client = await aiohttp_client(app)
        async with client.get(path, **how) as response:
            json = response.content_type == "application/json"
            return response.status, await response.json() if json else await response.text()

    return once


Ask = Callable[..., Awaitable[Got]]


async def test_the_wiring_runs(aiohttp_client: AiohttpClient) -> None:
    app = web.Application()
    wiring = (pattern.__doc__ or "").split("Wiring::")[1].split("Needs:")[0]
    names = vars(pattern) | {"app": app, "Literal": Literal, "Path": Query, "Body": Body}
    exec(dedent(wiring), names | {"Book": Cat})  # noqa: S102
    client = await aiohttp_client(app)
    async with client.post("/shelves/x?shelf=x", json={"kind": "cat"}) as response:
        assert (response.status, response.headers["Location"]) == (201, "/shelves/x")


async def test_a_handler_gets_what_it_is_annotated_to_take(ask: Ask) -> None:
    @typed
    async def handler(n: Query[int], request: web.Request, pet: Body[Pet]) -> list[str]:
        return [repr(n), request.path, pet.kind]

    assert await ask(handler, "/?n=1", json={"kind": "cat"}) == (200, ["1", "/", "cat"])


async def test_what_is_absent_has_the_default_of_the_parameter(ask: Ask) -> None:
    @typed
    async def handler(n: Query[int] = 7, pet: Body[Pet | None] = None) -> tuple[int, bool]:
        return n, pet is None

    assert await ask(handler) == (200, [7, True])


async def test_all_errors_of_a_request_are_told_at_once(ask: Ask) -> None:
    @typed
    async def handler(m: Query[int], n: Query[int], pet: Body[Cat]) -> None: ...

    assert await ask(handler, "/?n=secret", json={"kind": "secret"}) == (
        422,
        [
            {"loc": ["query", "m"], "msg": "Field required", "type": "missing"},
            {
                "loc": ["query", "n"],
                "msg": "Input should be a valid integer, unable to parse string as an integer",
                "type": "int_parsing",
            },
            {"loc": ["body", "kind"], "msg": "Input should be 'cat'", "type": "literal_error"},
        ],
    )


async def test_an_absent_body_is_an_error_of_the_body(ask: Ask) -> None:
    @typed
    async def handler(pet: Body[Cat]) -> None: ...

    missing = {"loc": ["body"], "msg": "Field required", "type": "missing"}
    assert await ask(handler) == (422, [missing])


@pytest.mark.parametrize("pet", [{"kind": "secret"}, {"kind": "dog", "id": "secret"}])
async def test_no_message_repeats_the_input(ask: Ask, pet: object) -> None:
    @typed
    async def handler(pet: Body[Pet]) -> None: ...

    status, errors = await ask(handler, json=pet)
    assert status == 422
    assert "secret" not in str(errors)
    assert "`s`" not in str(errors)


async def test_half_a_million_errors_are_one() -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(list[int]).validate_python(["x"] * 101)
    assert [each["type"] for each in validation_errors("body", caught.value)] == ["too_many_errors"]


async def test_the_name_of_an_error_is_not_longer_than_need_be() -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(dict[str, int]).validate_python({"x" * 1000: "y"})
    assert validation_errors("body", caught.value)[0]["loc"] == ["body", "x" * 64]


async def test_a_model_is_encoded_by_its_aliases(ask: Ask) -> None:
    @typed
    async def handler() -> Dog:
        return Dog(kind="dog", id=UUID(int=1))

    assert await ask(handler) == (200, {"kind": "dog", "id": str(UUID(int=1)), "Legs": 4})


async def test_nothing_is_204(ask: Ask) -> None:
    @typed
    async def handler() -> None: ...

    assert await ask(handler) == (204, "")


async def test_none_can_be_a_value(ask: Ask) -> None:
    @typed
    async def handler() -> int | None:
        return None

    assert await ask(handler) == (200, None)


async def test_a_reply_has_a_status_and_headers(aiohttp_client: AiohttpClient) -> None:
    @typed
    async def handler() -> Reply[Sequence[int], Literal[200, 201]]:
        return Reply([1], 201, {"Location": "/x"})

    app = web.Application()
    app.router.add_get("/", handler)
    async with (await aiohttp_client(app)).get("/") as response:
        assert (response.status, response.headers["Location"]) == (201, "/x")
        assert await response.json() == [1]


async def test_a_reply_can_be_empty(ask: Ask) -> None:
    @typed
    async def handler() -> Reply[None, Literal[202]]:
        return Reply(None, 202)

    assert await ask(handler) == (202, "")


async def test_a_response_passes_through(ask: Ask) -> None:
    @typed
    async def handler(n: Query[int]) -> web.StreamResponse:
        return web.Response(text=str(n + 1))

    assert await ask(handler, "/?n=1") == (200, "2")


async def test_a_value_unlike_its_annotation_is_an_error_where_warnings_are(ask: Ask) -> None:
    @typed
    async def handler() -> list[int]:
        return ["x"]  # type: ignore[list-item]  # what is tested

    assert (await ask(handler))[0] == 500


async def test_methods_of_views_are_typed_alike(ask: Ask) -> None:
    class View(web.View):
        @typed
        async def get(self, n: Query[int]) -> str:
            return f"{self.request.path}{n}"

    assert await ask(View, "/?n=1") == (200, "/1")
    described = operation(View, "GET")
    assert described is not None
    assert list(described.responses) == [200]


def test_an_operation_says_what_it_takes_and_gives() -> None:
    @typed
    async def handler(a: Query[int], b: Query[int] = 1) -> Reply[int, Literal[200, 201]]:
        raise NotImplementedError

    described = operation(handler)
    assert described is not None
    assert {name: part.place for name, part in described.parts.items()} == {
        "a": "query",
        "b": "query",
    }
    assert described.defaults == {"b": 1}
    assert list(described.responses) == [200, 201]
    assert operation(typed) is None


def test_marks_of_a_handler_are_kept() -> None:
    async def handler() -> None: ...

    handler.mark = 1  # type: ignore[attr-defined]  # what decorators do
    assert typed(handler).mark == 1  # type: ignore[attr-defined]  # see above


def test_a_parameter_from_nowhere_is_refused_at_start() -> None:
    async def handler(n: int) -> None: ...

    with pytest.raises(TypeError, match="'n'"):
        typed(handler)
