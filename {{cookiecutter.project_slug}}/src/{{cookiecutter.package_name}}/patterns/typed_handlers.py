"""Typed handlers: what a handler takes and gives is what its annotations say.

By hand every handler parses, refuses and encodes a little differently, and one that forgets a
case answers 500 to a client's mistake.

Wiring::

    @typed
    async def add(shelf: Path[str], book: Body[Book]) -> Reply[Book, Literal[201]]:
        return Reply(book, 201, {"Location": f"/shelves/{shelf}"})
    app.router.add_post("/shelves/{shelf}", add)

Needs: aiohttp>=3.14.4, pydantic>=2.12
Order: the handler itself, inside every middleware. Marks work above and below `@typed`.
Not: reading requests. `Path`, `Query`, `Header`, `Body` and `Form` are in `request_parts.py`; a
    `Source` of your own works as well, say to be handed the caller.
"""

import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import wraps
from types import NoneType
from typing import Generic, NamedTuple, Protocol, TypeVar, get_args, get_origin, get_type_hints

from aiohttp import web
from pydantic import TypeAdapter, ValidationError

__all__ = ["InvalidRequest", "Part", "Reply", "Source", "operation", "typed", "validation_errors"]

T = TypeVar("T")
Status = TypeVar("Status", bound=int)
Errors = list[dict[str, object]]
Responses = Mapping[int, TypeAdapter[object] | None]
Typed = Callable[[web.Request | web.View], Awaitable[web.StreamResponse]]

OPERATION = "__typed_operation__"
MAX_ERRORS = 100  # a body of 1 MiB can hold half a million mistakes
MUTED = {  # the messages that pydantic makes out of a piece of the input
    "union_tag_invalid": "Input should have one of the expected tags",
    "uuid_parsing": "Input should be a valid UUID",
}


class Part(Protocol):
    """What a parameter is taken from: a `name` in a `place` or, with a `media_type`, the body.

    `read` raises LookupError when a request has no such part, ValidationError, or HTTPException.
    """

    place: str
    name: str
    media_type: str
    adapter: TypeAdapter[object]
    read: Callable[[web.Request], Awaitable[object]]


class Source(Protocol):
    """The mark in Annotated[T, mark] that knows the part for a parameter."""

    def part(self, parameter: str, annotation: type[object]) -> Part: ...


@dataclass(slots=True)  # made for each answer; frozen would cost three times as much
class Reply(Generic[T, Status]):
    """An answer with a status, one of those that the annotation declares, and with headers."""

    value: T
    status: Status
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


class Operation(NamedTuple):
    """What a typed handler takes, by the names of its parameters, and gives.

    `defaults` has the parts that may be absent. `responses` has the statuses, None being an empty
    answer; a handler that has none answers with a stream, or a response, of its own.
    """

    parts: Mapping[str, Part]
    defaults: Mapping[str, object]
    responses: Responses


class InvalidRequest(web.HTTPUnprocessableEntity):
    """422 whose `problem` holds `errors`, each with `loc`, `msg` and `type`."""

    def __init__(self, errors: Errors) -> None:
        super().__init__(text="The request is not what this operation takes.")
        self.problem = {"errors": errors}


def operation(handler: object, method: str = "GET") -> Operation | None:
    """What `typed` knows of a handler, or of a class-based view's method; None for any other."""
    if isinstance(handler, type):
        handler = getattr(handler, method.lower(), None)
    described: Operation | None = getattr(handler, OPERATION, None)
    return described


def validation_errors(place: str, error: ValidationError, name: str = "") -> Errors:
    """What to publish of `error`: where, what and which kind; never the input, and not too much."""
    loc = [place, name] if name else [place]
    if error.error_count() > MAX_ERRORS:
        return [{"loc": loc, "msg": "Too many errors to name", "type": "too_many_errors"}]
    return [
        {
            "loc": [*loc, *(key[:64] if isinstance(key, str) else key for key in each["loc"])],
            "msg": MUTED.get(each["type"], each["msg"]),
            "type": each["type"],
        }
        for each in error.errors(include_url=False, include_context=False, include_input=False)
    ]


def typed(handler: Callable[..., Awaitable[object]]) -> Typed:
    """Call the handler with what it is annotated to take, and encode what it returns as JSON.

    Raises `InvalidRequest` with the errors of all parts at once: where, what and which kind, never
    the input. The status is 200, 204 for None, or that of a `Reply`. A StreamResponse passes
    through. A value unlike its annotation is a warning of pydantic's, so that tests find it.
    """
    hints = get_type_hints(handler, include_extras=True)
    signature = inspect.signature(handler).parameters
    asked = [n for n in signature if hints.get(n, web.Request) is not web.Request]
    parts = {n: _part(n, hints[n]) for n in asked}
    defaults = {n: p.default for n, p in signature.items() if p.default is not p.empty}
    itself = signature.keys() - hints.keys()  # the `self` of a view's method
    given = signature.keys() - parts.keys()
    responses = _responses(hints["return"])
    answer = _answer(responses)

    @wraps(handler)
    async def call(called: web.Request | web.View) -> web.StreamResponse:
        request = called if isinstance(called, web.Request) else called.request
        values: dict[str, object] = {n: called if n in itself else request for n in given}
        errors: Errors = []
        for name, part in parts.items():
            try:
                values[name] = await part.read(request)
            except LookupError:
                if name not in defaults:
                    loc = [part.place, part.name] if part.name else [part.place]
                    errors.append({"loc": loc, "msg": "Field required", "type": "missing"})
            except ValidationError as error:
                errors += validation_errors(part.place, error, part.name)
        if errors:
            raise InvalidRequest(errors)
        result = handler(**values)
        del values, errors  # or they would stay in memory for as long as a stream is open
        return answer(await result)

    setattr(call, OPERATION, Operation(parts, defaults, responses))
    return call


def _part(name: str, hint: type[object]) -> Part:
    source: Source | None = next((m for m in get_args(hint) if hasattr(m, "part")), None)
    if source is None:
        raise TypeError(f"the annotation of {name!r} does not say where in a request it is")
    return source.part(name, hint)


def _responses(returns: type[object]) -> Responses:
    if inspect.isclass(returns) and issubclass(returns, web.StreamResponse):
        return {}
    given, literal = get_args(returns) if get_origin(returns) is Reply else (returns, None)
    adapter = None if given is NoneType else TypeAdapter[object](given)
    return dict.fromkeys(get_args(literal) or (200 if adapter else 204,), adapter)


def _answer(responses: Responses) -> Callable[[object], web.StreamResponse]:
    usual, adapter = next(iter(responses.items()), (200, None))

    def answer(result: object) -> web.StreamResponse:
        if isinstance(result, Reply):
            reply: Reply[object, int] = result  # pyright: ignore[reportUnknownVariableType]  # of what, is not kept
        elif isinstance(result, web.StreamResponse):
            return result
        else:
            reply = Reply(result, usual)
        body = adapter.serializer.to_json(reply.value, by_alias=True) if adapter else None
        kind = "application/json" if adapter else None
        status, headers = reply.status, reply.headers
        return web.Response(body=body, status=status, headers=headers, content_type=kind)

    return answer
