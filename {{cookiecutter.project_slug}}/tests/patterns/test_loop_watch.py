import asyncio
import functools
import logging
import textwrap
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from {{cookiecutter.package_name}}.patterns import loop_watch as pattern
from {{cookiecutter.package_name}}.patterns.loop_watch import LoopLag, watch_loop

BLOCK = 0.1  # seconds


def decorated(
    handler: Callable[[web.Request], Awaitable[web.Response]],
) -> Callable[[web.Request], Awaitable[web.Response]]:
    @functools.wraps(handler)
    async def wrapper(request: web.Request) -> web.Response:
        return await handler(request)

    return wrapper


@decorated
async def blocking(request: web.Request) -> web.Response:
    time.sleep(BLOCK)  # noqa: ASYNC251  # the fault to be found
    return web.Response()


async def innocent(request: web.Request) -> web.Response:
    return web.Response()


class View(web.View):
    async def get(self) -> web.Response:
        time.sleep(BLOCK)  # noqa: ASYNC251  # the fault to be found
        return web.Response()


@asynccontextmanager
async def watched(
    lag: LoopLag, quiet: float = 0.0
) -> AsyncGenerator[TestClient[web.Request, web.Application]]:
    app = web.Application()
    app.cleanup_ctx.append(watch_loop(lag, every=0.01, warn_after=0.03, quiet=quiet))
    app.router.add_get("/blocking/{id}", blocking)
    app.router.add_get("/innocent", innocent)
    app.router.add_get("/partial", functools.partial(innocent))
    app.router.add_view("/view", View)
    async with TestClient(TestServer(app)) as client:
        yield client


async def test_the_route_that_blocks_the_loop_is_named(caplog: pytest.LogCaptureFixture) -> None:
    lag = LoopLag()
    async with watched(lag) as client:
        await client.get("/innocent")
        await client.get("/blocking/7")
    (line,) = [record for record in caplog.records if record.name == pattern.__name__]
    assert line.levelno == logging.WARNING
    assert "by /blocking/{id}, in blocking (" in line.getMessage()
    assert lag.blocked == 1


async def test_a_method_of_a_view_is_named_by_its_route(caplog: pytest.LogCaptureFixture) -> None:
    async with watched(LoopLag()) as client:
        await client.get("/view")
    assert "by /view, in View.get (" in caplog.text


async def test_code_outside_of_handlers_is_named_by_its_place(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with watched(LoopLag()):
        await asyncio.sleep(0.02)
        time.sleep(BLOCK)  # noqa: ASYNC251  # the fault to be found
    assert "by no route, in " in caplog.text


async def test_blocks_in_the_quiet_time_are_counted_and_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    lag = LoopLag()
    async with watched(lag, quiet=60) as client:
        await client.get("/blocking/1")
        await client.get("/blocking/2")
    assert lag.blocked == 2
    assert len(caplog.records) == 1


async def test_the_longest_delay_is_shown() -> None:
    lag = LoopLag()
    assert lag.worst == 0
    async with watched(lag) as client:
        await client.get("/blocking/1")
        await asyncio.sleep(0.02)
    assert lag.worst >= BLOCK / 2


async def test_a_delay_is_forgotten_after_enough_beats() -> None:
    lag = LoopLag(beats=2)
    for delay in (0.5, 0.0, 0.0):
        lag.recent.append(delay)
    assert lag.worst == 0


async def test_the_watching_thread_ends_with_the_application() -> None:
    before = threading.active_count()
    async with watched(LoopLag()):
        assert threading.active_count() == before + 1
    assert threading.active_count() == before


async def test_the_wiring_of_the_docstring_works() -> None:
    app = web.Application()
    wiring = textwrap.dedent((pattern.__doc__ or "").split("Wiring::")[1].split("Needs:")[0])
    exec(wiring, {**vars(pattern), "app": app})  # noqa: S102
    async with TestClient(TestServer(app)):
        assert len(app.cleanup_ctx) == 1
