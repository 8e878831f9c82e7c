import asyncio
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from textwrap import dedent

import pytest
from aiohttp import web
from pytest_aiohttp.plugin import AiohttpClient

from {{cookiecutter.package_name}}.patterns import off_loop as pattern
from {{cookiecutter.package_name}}.patterns.off_loop import OffLoop

note: ContextVar[str] = ContextVar("note", default="")


@asynccontextmanager
async def gated(pool: OffLoop) -> AsyncGenerator[threading.Event]:
    """A running pool, and what the work in it waits for: set at the end, lest a thread be left."""
    gate = threading.Event()
    async with pool.running(web.Application()):
        try:
            yield gate
        finally:
            gate.set()
            await until(lambda: not pool.in_use)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  # nothing tells of a thread that began
            await asyncio.sleep(0.001)


def wait_for(gate: threading.Event, started: threading.Event, ended: threading.Event) -> None:
    started.set()
    gate.wait(5)
    ended.set()


async def test_work_runs_in_another_thread_while_the_loop_goes_on() -> None:
    pool = OffLoop(threads=1)
    async with gated(pool) as gate:
        waiting = asyncio.create_task(pool.run(gate.wait, timeout=5))
        await until(lambda: pool.in_use == 1)
        gate.set()
        assert await waiting is True
        await until(lambda: pool.in_use == 0)


async def test_what_the_work_raises_is_raised() -> None:
    pool = OffLoop()
    async with gated(pool):
        with pytest.raises(ZeroDivisionError):
            await pool.run(divmod, 1, 0)


async def test_the_work_sees_the_contextvars_of_its_caller() -> None:
    pool = OffLoop()
    async with gated(pool):
        note.set("request 7")
        assert await pool.run(note.get) == "request 7"


async def test_above_threads_and_queue_it_is_refused_at_once() -> None:
    pool = OffLoop(threads=2, queue=1)
    async with gated(pool) as gate:
        running = [asyncio.create_task(pool.run(gate.wait, 5)) for _ in range(3)]
        await until(lambda: pool.in_use == 3)
        with pytest.raises(web.HTTPServiceUnavailable) as refused:
            await pool.run(gate.wait, 5)
        assert refused.value.headers["Retry-After"] in {"1", "2", "3", "4", "5"}
        assert pool.refused == 1
        gate.set()
        assert await asyncio.gather(*running) == [True] * 3


async def test_a_cancelled_caller_leaves_its_place_taken_until_the_thread_is_done() -> None:
    pool = OffLoop(threads=1, queue=0)
    async with gated(pool) as gate:
        started, ended = threading.Event(), threading.Event()
        caller = asyncio.create_task(pool.run(wait_for, gate, started, ended))
        await until(started.is_set)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        assert pool.in_use == 1
        with pytest.raises(web.HTTPServiceUnavailable):
            await pool.run(int)
        gate.set()
        await until(lambda: pool.in_use == 0)
        assert await pool.run(int) == 0


async def test_a_cancelled_caller_that_still_waited_frees_its_place_and_does_no_work() -> None:
    pool = OffLoop(threads=1, queue=1)
    async with gated(pool) as gate:
        first = asyncio.create_task(pool.run(gate.wait, 5))
        done: list[int] = []
        second = asyncio.create_task(pool.run(done.append, 1))
        await until(lambda: pool.in_use == 2)
        second.cancel()
        await until(lambda: pool.in_use == 1)
        gate.set()
        await first
        assert await pool.run(len, done) == 0


async def test_shutdown_drops_what_waits_and_gives_what_runs_its_time() -> None:
    pool = OffLoop(threads=1, queue=1, grace=5)
    gate = threading.Event()
    async with pool.running(web.Application()):
        running = asyncio.create_task(pool.run(gate.wait, 5))
        waiting = asyncio.create_task(pool.run(int))
        await until(lambda: pool.in_use == 2)
        asyncio.get_running_loop().call_later(0.02, gate.set)
    assert gate.is_set()
    assert await running is True
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_shutdown_does_not_wait_longer_than_its_grace() -> None:
    pool = OffLoop(threads=1, grace=0.01)
    gate = threading.Event()
    async with asyncio.timeout(2):
        async with pool.running(web.Application()):
            running = asyncio.create_task(pool.run(gate.wait, 5))
            await until(lambda: pool.in_use == 1)
    assert pool.in_use == 1
    gate.set()
    await running


async def test_without_its_context_it_says_what_is_missing() -> None:
    with pytest.raises(RuntimeError, match="cleanup_ctx"):
        await OffLoop().run(int)


def test_work_that_ends_after_its_loop_disturbs_nobody(caplog: pytest.LogCaptureFixture) -> None:
    gate, started, ended = threading.Event(), threading.Event(), threading.Event()

    async def leave() -> None:
        pool = OffLoop(grace=0)
        async with pool.running(web.Application()):
            caller = asyncio.create_task(pool.run(wait_for, gate, started, ended))
            await until(started.is_set)
            caller.cancel()

    asyncio.run(leave())
    threads = [each for each in threading.enumerate() if each.name.startswith("off-loop")]
    gate.set()
    assert ended.wait(5)
    for each in threads:
        each.join(5)
    assert not caplog.records


async def test_the_wiring_of_the_docstring_works(aiohttp_client: AiohttpClient) -> None:
    app = web.Application()
    names = {"app": app, "web": web, "OffLoop": OffLoop, "render": str.encode}
    exec(dedent((pattern.__doc__ or "").split("Wiring::")[1].split("Needs:")[0]), names)  # noqa: S102
    app.router.add_get("/", names["handler"])  # type: ignore[arg-type]  # it comes out of exec
    client = await aiohttp_client(app)
    async with client.get("/") as response:
        assert await response.text() == "report"
