"""The document of the stress application is valid, complete, and means what the handlers do."""

import asyncio
import json
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # has no types
from openapi_spec_validator import OpenAPIV31SpecValidator

from .stress import KINDS, create_app, openapi

TEXT = st.text(max_size=6)
SCALARS = st.none() | st.booleans() | st.integers(-3, 12) | st.sampled_from([0.5, -2.5]) | TEXT
NAMES = st.sampled_from(["a", "inner", "kind", "label", "from", "from_", "in", "number", "more"])
FORMATS = {
    "date-time": ["2026-01-01T00:00:00Z", "2026-01-01T00:00:00.5+02:00"],
    "date": ["2026-01-01", "2024-02-29"],
    "duration": ["P1D", "PT0.5S"],
    "uuid": ["00000000-0000-0000-0000-000000000001"],
}
CHECKER = deepcopy(Draft202012Validator.FORMAT_CHECKER)
CHECKER.checks("duration")(lambda value: value in FORMATS["duration"])


class Server:
    """The stress application behind a real socket, asked from code that does not await."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.client = TestClient(TestServer(create_app(), loop=self.loop), loop=self.loop)
        self.loop.run_until_complete(self.client.start_server())
        self.document: Any = json.loads(self.ask("GET", "/openapi.json")[1])

    def ask(self, method: str, path: str, **how: Any) -> tuple[int, bytes]:
        async def once() -> tuple[int, bytes]:
            async with self.client.request(method, path, **how) as response:
                return response.status, await response.read()

        return self.loop.run_until_complete(once())

    def schema(self, number: int, where: str) -> Draft202012Validator:
        """What the document says of the body, or of the answer, of one model."""
        operation = self.document["paths"][f"/{number}"]["post"]
        found = {"body": operation["requestBody"], "answer": operation["responses"]["200"]}[where]
        schema = found["content"]["application/json"]["schema"]
        components = {"components": self.document["components"]}
        return Draft202012Validator(schema | components, format_checker=CHECKER)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.loop.run_until_complete(running.client.close())
    running.loop.close()


def bodies(schema: Any, document: Any, depth: int = 4) -> st.SearchStrategy[Any]:
    """Values that follow the schema for the most part, and go astray here and there."""
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    kinds = schema.get("anyOf") or schema.get("oneOf")
    if kinds:
        right = st.one_of([bodies(kind, document, depth) for kind in kinds])
    elif "enum" in schema or "const" in schema:
        right = st.sampled_from(schema.get("enum", [schema.get("const")]))
    elif schema.get("type") == "object" and depth:
        properties = {
            name: bodies(each, document, depth - 1)
            for name, each in schema.get("properties", {}).items()
        }
        needed = {name: properties[name] for name in schema.get("required", [])}
        optional = {name: each for name, each in properties.items() if name not in needed}
        right = st.fixed_dictionaries(needed, optional=optional)
    elif "prefixItems" in schema:
        right = st.tuples(*(bodies(each, document) for each in schema["prefixItems"])).map(list)
    elif schema.get("type") == "array" and depth:
        unique = str if schema.get("uniqueItems") else None
        items = bodies(schema.get("items") or {}, document, depth - 1)
        least, most = schema.get("minItems", 0), schema.get("maxItems", 4)
        right = st.lists(items, min_size=least, max_size=most, unique_by=unique)
    else:
        right = scalars(schema)
    astray = SCALARS | st.dictionaries(NAMES, SCALARS, max_size=3) | st.lists(SCALARS, max_size=2)
    return st.integers(0, 29).flatmap(lambda dice: astray if dice == 0 else right)


def scalars(schema: Any) -> st.SearchStrategy[Any]:
    if "format" in schema:
        return st.sampled_from(FORMATS[schema["format"]])
    if "pattern" in schema:
        return st.from_regex(schema["pattern"], fullmatch=True)
    kinds: dict[str, st.SearchStrategy[Any]] = {
        "integer": st.integers(-3, 12),
        "number": st.sampled_from([0.5, 1, 0.0, 1.5, -2.5]),
        "string": st.text(min_size=schema.get("minLength", 0), max_size=schema.get("maxLength", 6)),
        "boolean": st.booleans(),
        "null": st.none(),
    }
    return kinds.get(schema.get("type"), SCALARS)


def test_the_document_is_valid(server: Server) -> None:
    OpenAPIV31SpecValidator(server.document).validate()


def test_the_router_and_the_document_name_the_same(server: Server) -> None:
    described = {
        (method.upper(), path)
        for path, methods in server.document["paths"].items()
        for method in methods
    }
    assert described == {(method, path) for method, path, _ in openapi.routes_of(create_app())}


@pytest.mark.parametrize("number", range(len(KINDS)), ids=[kind.__name__ for kind in KINDS])
def test_the_handler_accepts_what_the_schema_accepts(server: Server, number: int) -> None:
    """Formats are checked one way: there are more ways to write a date than RFC 3339 has."""
    body, answer = server.schema(number, "body"), server.schema(number, "answer")
    lenient = Draft202012Validator(body.schema)
    seen = {True: 0, False: 0}

    @settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
    @given(bodies(body.schema, server.document))
    def check(value: Any) -> None:
        status, text = server.ask("POST", f"/{number}", json=value)
        seen[status == 200] += 1
        assert status in (200, 422)
        if status == 200:
            assert lenient.is_valid(value), value
            answer.validate(json.loads(text))
        else:
            assert not body.is_valid(value), value

    check()
    assert min(seen.values()) > 0, seen
