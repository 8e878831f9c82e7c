import asyncio
import logging
from contextvars import ContextVar
from textwrap import dedent

import pytest
from aiohttp import web
from pytest_aiohttp.plugin import AiohttpClient

from {{cookiecutter.package_name}}.patterns import background_tasks as pattern
from {{cookiecutter.package_name}}.patterns.background_tasks import BackgroundTasks

note: ContextVar[str] = ContextVar("note", default="")


async def test_a_task_runs_under_its_name_and_is_forgotten_when_done() -> None:
    background, gate = BackgroundTasks(), asyncio.Event()
    async with background.running(web.Application()):
        task = background.start("receipt", gate.wait)
        assert background.names == ["receipt"]
        gate.set()
        assert await task is True
        await asyncio.sleep(0)
        assert background.names == []


async def test_it_goes_on_when_the_request_has_ended(aiohttp_client: AiohttpClient) -> None:
    background, gate, done = BackgroundTasks(), asyncio.Event(), asyncio.Event()

    async def work(what: str, *, times: int) -> None:
        await gate.wait()
        assert (note.get(), what, times) == ("request 7", "post", 2)
        done.set()

    async def handler(request: web.Request) -> web.Response:
        note.set("request 7")
        background.start("work", work, "post", times=2)
        return web.Response(status=202)

    app = web.Application()
    app.cleanup_ctx.append(background.running)
    app.router.add_get("/", handler)
    client = await aiohttp_client(app)
    async with client.get("/") as response:
        assert response.status == 202
    gate.set()
    async with asyncio.timeout(5):
        await done.wait()


async def test_an_exception_is_logged_with_the_task_s_name_and_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail() -> None:
        raise OSError("the mail server is away")

    background = BackgroundTasks()
    async with background.running(web.Application()):
        await asyncio.wait({background.start("receipt", fail)})
        await asyncio.sleep(0)
    assert background.failed == 1
    assert "background task receipt failed" in caplog.text
    assert "the mail server is away" in caplog.text


async def test_above_the_limit_nothing_is_called() -> None:
    background, gate = BackgroundTasks(limit=2), asyncio.Event()
    calls: list[int] = []

    async def work() -> None:
        calls.append(1)
        await gate.wait()

    async with background.running(web.Application()):
        background.start("one", work)
        background.start("two", work)
        with pytest.raises(web.HTTPServiceUnavailable) as refused:
            background.start("three", work)
        assert refused.value.headers["Retry-After"] in {"1", "2", "3", "4", "5"}
        await asyncio.sleep(0)
        assert len(calls) == 2
        gate.set()


async def test_shutdown_lets_tasks_finish() -> None:
    background, ended = BackgroundTasks(grace=5), asyncio.Event()

    async def work() -> None:
        await asyncio.sleep(0.02)
        ended.set()

    async with background.running(web.Application()):
        background.start("work", work)
    assert ended.is_set()


async def test_after_the_grace_tasks_are_cancelled_and_clean_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    background, cleaned = BackgroundTasks(grace=0.01), asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.02)
            cleaned.set()

    async with background.running(web.Application()):
        background.start("stuck", work)
        await asyncio.sleep(0)
    assert cleaned.is_set()
    assert caplog.messages == ["background task stuck is cancelled by shutdown"]


async def test_an_endless_task_is_cancelled_at_once_and_does_not_count() -> None:
    background, gate = BackgroundTasks(limit=1, grace=60), asyncio.Event()
    async with asyncio.timeout(5):
        async with background.running(web.Application()):
            task = background.start_endless("consumer", gate.wait)
            await background.start("one", asyncio.sleep, 0)
            assert background.names == ["consumer"]
    assert task.cancelled()


async def test_a_task_that_will_not_end_does_not_hold_shutdown(
    caplog: pytest.LogCaptureFixture,
) -> None:
    background, release = BackgroundTasks(grace=0, last=0.01), asyncio.Event()

    async def stubborn() -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    async with background.running(web.Application()):
        task = background.start_endless("stubborn", stubborn)
        await asyncio.sleep(0)
    assert caplog.record_tuples[-1][1:] == (
        logging.ERROR,
        "background task stubborn does not end",
    )
    release.set()
    await task


async def test_nothing_starts_before_or_after_the_application() -> None:
    background = BackgroundTasks()
    for _ in range(2):
        with pytest.raises(web.HTTPServiceUnavailable):
            background.start("early", asyncio.sleep, 0)
        with pytest.raises(RuntimeError, match="cleanup_ctx"):
            background.start_endless("early", asyncio.sleep, 0)
        async with background.running(web.Application()):
            pass


async def test_the_wiring_of_the_docstring_works(aiohttp_client: AiohttpClient) -> None:
    sent: list[str] = []

    async def send_receipt(order: str) -> None:
        sent.append(order)

    app = web.Application()
    names = {"app": app, "web": web, "send_receipt": send_receipt, **vars(pattern)}
    exec(dedent((pattern.__doc__ or "").split("Wiring::")[1].split("Needs:")[0]), names)  # noqa: S102
    app.router.add_get("/", names["handler"])
    client = await aiohttp_client(app)
    async with client.get("/") as response:
        assert response.status == 202
    assert sent == ["order 7"]
