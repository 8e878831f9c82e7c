"""The docstring's own lines, executed in an application that was not written for them."""

import ast
import asyncio
import importlib
import inspect
import logging
import os
import re
import sys
import textwrap
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Annotated, Literal

import aiohttp
import pytest
from aiohttp import web
from aiohttp.typedefs import Handler

NAME = os.environ["PATTERN"]  # it lies in the package with_NAME, beside the application


def page() -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(text="ok")

    return handler


def passes(*_: object, **__: object) -> object:
    """What another pattern would give, doing nothing."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        return await handler(request)

    return middleware


async def payload(_: str) -> dict[str, object]:
    raise ValueError("nobody is known here")


@asynccontextmanager
async def subscribe(*_: object) -> AsyncIterator[tuple[list[bytes], str, bool]]:
    yield [], "0-0", False


async def nothing(*_: object) -> None:
    return None


def same(thing: object) -> object:
    return thing


def reader_names(wiring: str) -> dict[str, object]:
    """What the reader of a docstring has: an application, modules, and things of their own."""
    names: dict[str, object] = {
        **{module.__name__: module for module in (aiohttp, asyncio, logging, sys, web)},
        **{name: page() for name in ("handler", "me", "reports", "livez", "events")},
        **dict.fromkeys(("shed_load", "jwt_auth"), passes),
        **dict.fromkeys(("subscribe_to_news", "subscribe_to_chat"), subscribe),
        **dict.fromkeys(("end_streams", "on_text", "send_receipt"), nothing),
        **dict.fromkeys(("typed", "ticketed"), same),
        "web": web,
        "cache": set(),
        "new_id": lambda _: "id",
        "crowded": lambda: False,
        "admits": lambda _: True,
        "spared": lambda _: False,
        "answer": lambda *_: b"",
        "jwks_verifier": lambda keys, _: keys,
        "operation": lambda *_: None,
        "policy": None,
        "secret": os.urandom(32),
        "verify": payload,
        **dict.fromkeys(("Event", "Backlog"), tuple),
        "RedisStreams": Streams,
        "SESSION": web.AppKey("session", aiohttp.ClientSession),
    }
    if "CollectorRegistry" in wiring:
        names["CollectorRegistry"] = importlib.import_module("prometheus_client").CollectorRegistry
    if re.search(r"\b(Book|Answer)\b", wiring):
        names["Book"] = names["Answer"] = importlib.import_module("pydantic").create_model("Book")
    if "Path[" in wiring:
        names["Literal"] = Literal
        names["Path"] = names["Body"] = Source()
    return names


class Streams:
    """What `redis_streams` would give."""

    def __init__(self, **_: object) -> None: ...

    async def run(self, _: web.Application) -> AsyncIterator[None]:
        yield


class Source:
    """A part of a request that is always there: `Path[str]` and the like."""

    place, name, media_type = "path", "part", ""

    def __getitem__(self, hint: type) -> object:
        return Annotated[hint, self]

    def part(self, *_: object) -> "Source":
        return self


async def execute(block: str, names: dict[str, object]) -> None:
    """Some wirings await, as they would in the function where they end up."""
    code = compile(block, "<wiring>", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    result = eval(code, names)  # noqa: S307
    if inspect.isawaitable(result):
        await result


def public(module: ModuleType) -> dict[str, object]:
    return {name: getattr(module, name) for name in module.__all__}


@pytest.fixture(autouse=True)
def logging_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    Path("public").mkdir()  # a folder that a reader has
    Path("public", "index.html").touch()
    loggers = [logging.getLogger(name) for name in (None, "aiohttp.server", "asyncio")]
    before = [(logger.level, logger.handlers[:], logger.filters[:]) for logger in loggers]
    yield
    for logger, (level, handlers, filters) in zip(loggers, before, strict=True):
        logger.level, logger.handlers, logger.filters = level, handlers, filters


async def test_the_wiring_works_in_an_application_that_knows_nothing_of_it() -> None:
    pattern = importlib.import_module(f"with_{NAME}.{NAME}")
    shop = importlib.import_module(f"with_{NAME}.shop")
    block = textwrap.dedent((pattern.__doc__ or "").split("Wiring::")[1].split("\nNeeds:")[0])
    app: web.Application = shop.create_app()
    runner = web.AppRunner(app)
    names = {**reader_names(block), **public(pattern), "app": app, "runner": runner}
    await execute(block, names)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    locked = NAME in {"jwt_auth", "basic_auth"}
    async with aiohttp.ClientSession(runner_url(runner)) as client:
        async with client.get("/products") as answer:
            assert answer.status == (401 if locked else 200)
        async with client.post("/orders", json={"product": "tea"}) as answer:
            assert answer.status == (401 if locked else 201)
        async with client.post("/orders", json={"product": "gold"}) as answer:
            assert answer.status == (401 if locked else 404)
    await runner.cleanup()
    for made in names.values():
        if isinstance(made, aiohttp.ClientSession):
            await made.close()


def runner_url(runner: web.AppRunner) -> str:
    host, port = runner.addresses[0][:2]
    return f"http://{host}:{port}/"
