"""An application with every kind of model that an OpenAPI document has to get right."""

# mypy: ignore-errors
# What is loaded by its path has no types; the service's own `make check` looks at these files.

import importlib.util
import sys
from datetime import date, datetime, timedelta
from enum import Enum, IntEnum
from pathlib import Path as File
from types import ModuleType
from typing import Annotated, Generic, Literal, TypeVar
from uuid import UUID

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

ROOT = File(__file__).resolve().parents[2]
PATTERNS = ROOT / "{{cookiecutter.project_slug}}/src/{{cookiecutter.package_name}}/patterns"


def pattern(name: str) -> ModuleType:
    """One file of the shelf, by itself."""
    spec = importlib.util.spec_from_file_location(f"shelf_{name}", PATTERNS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


parts = pattern("request_parts")
handlers = pattern("typed_handlers")
openapi = pattern("openapi")

Item = TypeVar("Item")


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Size(IntEnum):
    SMALL = 1
    LARGE = 2


class Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Optionals(Closed):
    a: int | None
    b: str | None = None
    c: list[int] | None = None


class Nested(Closed):
    inner: Optionals
    named: dict[str, Optionals] = {}
    listed: list[Optionals] = []


class Tree(Closed):
    label: str
    children: list["Tree"] = []
    parent: "Tree | None" = None


class Enums(Closed):
    colour: Colour
    size: Size = Size.SMALL
    letter: Literal["a", "b", 3, None] = "a"


class Unions(Closed):
    one: int | str
    two: Optionals | list[int] | bool


class Cat(Closed):
    kind: Literal["cat"]
    lives: Annotated[int, Field(ge=1, le=9)]


class Dog(Closed):
    kind: Literal["dog", "wolf"]
    name: str


class Tagged(Closed):
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]


class Constrained(Closed):
    text: Annotated[str, Field(min_length=1, max_length=5)]
    slug: Annotated[str, Field(pattern=r"^[a-z]+$")]
    count: Annotated[int, Field(gt=0, lt=10, multiple_of=2)]
    share: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
    some: Annotated[list[int], Field(min_length=1, max_length=3)]


class Aliased(Closed):
    from_: Annotated[int, Field(alias="from")]
    both: Annotated[int, Field(validation_alias="in", serialization_alias="out")] = 1


class Times(Closed):
    at: datetime
    on: date
    lasts: timedelta
    id: UUID


class Defaults(Closed):
    number: int = 7
    colour: Colour = Colour.BLUE
    tags: list[str] = Field(default_factory=list)
    flag: bool = False


class Page(Closed, Generic[Item]):
    items: list[Item]
    next: Item | None = None


class Arrays(Closed):
    some: frozenset[Colour] = frozenset()
    pair: tuple[int, str]
    unique: set[int]


KINDS: list[type[BaseModel]] = [
    *(Optionals, Nested, Tree, Enums, Unions, Tagged, Constrained, Aliased, Times, Defaults),
    *(Page[Cat], Page[int], Arrays),
]


def echo(model: type[BaseModel]) -> object:
    """A handler that takes the model and gives it back."""

    async def handler(body):  # annotated below, by the model
        return body

    handler.__annotations__ = {"body": parts.Body[model], "return": model}
    handler.__name__ = model.__name__
    return handlers.typed(handler)


@handlers.typed
async def text(  # noqa: PLR0913, PLR0917  # one of each kind
    id: parts.Path[UUID],  # noqa: A002  # a name that people use
    n: parts.Query[Annotated[int, Field(ge=1)]],
    colour: parts.Query[Colour | None] = None,
    tags: parts.Query[list[str]] = (),
    after: parts.Query[datetime | None] = None,
    if_match: parts.Header[str | None] = None,
) -> None:
    """Take text of all kinds."""


class View(web.View):
    @handlers.typed
    async def get(self) -> list[Tree]:
        """Give a list."""
        return []

    @handlers.typed
    async def post(self, form: parts.Form[Defaults]) -> handlers.Reply[Tree, Literal[200, 201]]:
        """Take a form."""
        return handlers.Reply(Tree(label=form.colour.value), 201)


@openapi.answers(101)
async def socket(request: web.Request) -> web.StreamResponse:
    raise NotImplementedError


@openapi.answers(200, 404, media_type="text/event-stream")
async def events(request: web.Request) -> web.StreamResponse:
    raise NotImplementedError


def create_app() -> web.Application:
    app, sub = web.Application(), web.Application()
    sub.router.add_view("/view", View)
    sub.router.add_get("/socket", socket)
    sub.router.add_get("/events", events)
    sub.router.add_get(r"/text/{id:[0-9a-f-]+}", text)
    for number, model in enumerate(KINDS):
        app.router.add_post(f"/{number}", echo(model))
    app.add_subapp("/sub", sub)
    app.router.add_get("/openapi.json", openapi.serve_openapi)
    write = openapi.openapi(title="Stress", version="1", describe=handlers.operation)
    app.on_startup.append(write)
    return app
