import asyncio
import os
import shutil
import signal
import socket
import sys
import textwrap
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from {{cookiecutter.package_name}}.patterns import drain as pattern
from {{cookiecutter.package_name}}.patterns.drain import Drain, Listen

HERE = Listen(port=0)


@pytest.fixture(autouse=True)
def no_long_last_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pattern, "LAST", 0.05)
    monkeypatch.setattr(pattern, "QUIET", 3)


class Service:
    """An application with a slow handler, an upload, and a context that says when it is closed."""

    def __init__(self, drain: Drain) -> None:
        self.drain, self.app, self.closed = drain, web.Application(), False
        self.urls: Sequence[str] = ()
        self.begun, self.proceed = asyncio.Event(), asyncio.Event()
        self.listening = asyncio.Event()
        self.task: asyncio.Task[None]
        self.app.middlewares.append(drain.count)
        self.app.on_response_prepare.append(drain.close_connections)
        self.app.cleanup_ctx.append(self.context)
        self.app.router.add_get("/", self.ready)
        self.app.router.add_get("/slow", self.slow)
        self.app.router.add_post("/upload", self.upload)

    async def context(self, app: web.Application) -> AsyncIterator[None]:
        try:
            yield
        finally:
            self.closed = True

    async def ready(self, request: web.Request) -> web.Response:
        return web.Response(status=503 if self.drain.draining else 200)

    async def slow(self, request: web.Request) -> web.Response:
        self.begun.set()
        await self.proceed.wait()
        return web.Response(text="done")

    async def upload(self, request: web.Request) -> web.Response:
        self.begun.set()
        return web.Response(text=str(len(await request.read())))

    def listens(self, urls: Sequence[str]) -> None:
        self.urls = urls
        self.listening.set()

    @asynccontextmanager
    async def running(
        self, admin: tuple[web.Application, Listen] | None = None
    ) -> AsyncIterator["asyncio.Task[None]"]:
        serving = self.drain.serve(self.app, HERE, admin=admin, on_listening=self.listens)
        task = asyncio.create_task(serving)
        await self.listening.wait()
        try:
            yield task
        finally:
            self.drain.stop()
            self.drain.stop()
            await asyncio.wait({task})


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun < seconds


async def refused(url: str) -> bool:
    host, _, port = url.removeprefix("http://").partition(":")
    try:
        _, writer = await asyncio.open_connection(host, int(port))
    except (ConnectionRefusedError, ConnectionResetError):
        return True  # reset: it waited to be accepted when the listener closed
    writer.close()
    return False


async def until_refused(url: str) -> None:
    async with asyncio.timeout(5):
        while not await refused(url):  # noqa: ASYNC110  # a listener has no event
            await asyncio.sleep(0.001)


async def test_a_signal_ends_an_idle_server_and_closes_its_contexts() -> None:
    service = Service(Drain(delay=0, timeout=10))
    async with service.running() as task:
        with at_most(0.5):
            os.kill(os.getpid(), signal.SIGTERM)
            await task
        assert service.closed


async def test_an_idle_connection_does_not_hold_up_the_end() -> None:
    service = Service(Drain(delay=0, timeout=10))
    async with service.running() as task, aiohttp.ClientSession() as session:
        await session.get(service.urls[0])
        with at_most(0.2):
            service.drain.stop()
            await task


async def test_afterwards_signals_do_what_they_did_before() -> None:
    service, before = Service(Drain(delay=0)), signal.getsignal(signal.SIGTERM)
    async with service.running():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before


async def test_sigint_does_the_same() -> None:
    service = Service(Drain(delay=0, timeout=10))
    async with service.running() as task:
        os.kill(os.getpid(), signal.SIGINT)
        await task
        assert service.closed


async def test_readiness_says_no_while_new_connections_are_still_served() -> None:
    service = Service(Drain(delay=0.1, timeout=1))
    async with service.running() as task, aiohttp.ClientSession() as session:
        service.drain.stop()
        async with session.get(service.urls[0]) as response:
            assert response.status == 503
            assert response.headers["Connection"] == "close"
        assert not await refused(service.urls[0])
        await until_refused(service.urls[0])
        await task


async def test_the_server_itself_closes_a_connection_on_which_it_answers_while_draining() -> None:
    service = Service(Drain(delay=30, timeout=1))
    async with service.running():
        host, _, port = service.urls[0].removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        service.drain.stop()
        writer.write(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        async with asyncio.timeout(2):
            assert b" 503 " in await reader.read()
        writer.close()


async def test_answers_before_a_drain_keep_their_connection() -> None:
    service = Service(Drain(delay=0, timeout=1))
    async with service.running(), aiohttp.ClientSession(service.urls[0]) as session:
        response = await session.get("/")
        assert "Connection" not in response.headers


async def test_a_handshake_keeps_its_upgrade() -> None:
    response = web.WebSocketResponse()
    drain = Drain()
    drain.stop()
    await drain.close_connections(None, response)  # type: ignore[arg-type]  # it is not looked at
    assert "Connection" not in response.headers


async def test_a_request_in_flight_gets_its_answer() -> None:
    service = Service(Drain(delay=0, timeout=5))
    async with service.running() as task, aiohttp.ClientSession() as session:
        getting = asyncio.create_task(session.get(service.urls[0] + "/slow"))
        await service.begun.wait()
        service.drain.stop()
        await until_refused(service.urls[0])
        service.proceed.set()
        async with await getting as response:
            assert await response.text() == "done"
            assert response.headers["Connection"] == "close"
        await task


async def test_a_connection_that_came_just_before_the_end_gets_its_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pattern, "QUIET", 500)  # rounds; a busy machine does not decide on this
    ended = asyncio.Event()

    async def end(seconds: float) -> None:
        ended.set()

    service = Service(Drain(delay=0, timeout=10, streams=[end]))
    async with service.running() as task:
        host, _, port = service.urls[0].removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        service.drain.stop()
        await ended.wait()  # nothing is in flight, and no stream is open
        await asyncio.sleep(0.05)  # so long this client's request is on its way
        writer.write(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        assert b" 503 " in await reader.read()
        writer.close()
        with at_most(2):  # it was the last
            await task


async def test_who_shares_a_socket_takes_what_comes_after_another_has_left() -> None:
    with socket.create_server(("127.0.0.1", 0)) as shared:
        leaving, staying = Service(Drain(delay=0)), Service(Drain(delay=0))
        for service in (leaving, staying):
            listen = Listen(sock=shared.dup())
            serving = service.drain.serve(service.app, listen, on_listening=service.listens)
            service.task = asyncio.create_task(serving)
            await service.listening.wait()
        assert leaving.urls == staying.urls
        leaving.drain.stop()
        await leaving.task
        async with aiohttp.ClientSession(staying.urls[0]) as session:
            for _ in range(20):
                async with session.get("/", headers={"Connection": "close"}) as response:
                    assert response.status == 200
        staying.drain.stop()
        await staying.task


async def test_an_upload_in_progress_is_received_to_its_end() -> None:
    service, more = Service(Drain(delay=0, timeout=5)), asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b"x" * 100_000
        await more.wait()
        yield b"x" * 100_000

    async with service.running() as task, aiohttp.ClientSession() as session:
        posting = asyncio.create_task(session.post(service.urls[0] + "/upload", data=body()))
        await service.begun.wait()
        service.drain.stop()
        await until_refused(service.urls[0])
        more.set()
        async with await posting as response:
            assert await response.text() == "200000"
        await task


async def test_an_answer_is_sent_to_a_slow_reader_to_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pattern, "LAST", 0.01)  # that is not what waits for it
    service = Service(Drain(delay=0, timeout=5))
    size = 16_000_000

    async def large(request: web.Request) -> web.Response:
        return web.Response(body=b"x" * size)

    service.app.router.add_get("/large", large)
    async with service.running() as task:
        host, _, port = service.urls[0].removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
        writer.write(b"GET /large HTTP/1.1\r\nHost: h\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        service.drain.stop()
        await until_refused(service.urls[0])
        await asyncio.sleep(0.1)
        assert not task.done()
        assert len(await reader.readexactly(size)) == size
        writer.close()
        await task


async def test_an_answer_that_is_not_read_is_cut_off_at_the_timeout() -> None:
    service, size = Service(Drain(delay=0, timeout=0.1)), 16_000_000

    async def large(request: web.Request) -> web.Response:
        return web.Response(body=b"x" * size)

    service.app.router.add_get("/large", large)
    async with service.running() as task:
        host, _, port = service.urls[0].removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
        writer.write(b"GET /large HTTP/1.1\r\nHost: h\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        service.drain.stop()
        await task
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await reader.readexactly(size)
        writer.close()


async def test_at_the_timeout_what_is_left_is_cancelled_before_the_contexts_close() -> None:
    service, order = Service(Drain(delay=0, timeout=0.1)), list[str]()

    async def stuck(request: web.Request) -> web.Response:
        service.begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            for _ in range(10):
                await asyncio.sleep(0)
            order.append("handler")
        raise AssertionError

    async def context(app: web.Application) -> AsyncIterator[None]:
        yield
        order.append("context")

    service.app.router.add_get("/stuck", stuck)
    service.app.cleanup_ctx.append(context)
    async with service.running() as task, aiohttp.ClientSession() as session:
        getting = asyncio.create_task(session.get(service.urls[0] + "/stuck"))
        await service.begun.wait()
        with at_most(2.1):
            service.drain.stop()
            await task
        with suppress(aiohttp.ClientError):
            await getting
    assert order == ["handler", "context"]


async def test_streams_are_ended_with_a_share_of_the_time_after_the_listener_has_closed() -> None:
    asked = list[tuple[float, bool]]()

    async def end(seconds: float) -> None:
        asked.append((seconds, await refused(service.urls[0])))

    service = Service(Drain(delay=0, timeout=4, streams=[end, end]))
    async with service.running() as task:
        service.drain.stop()
        await task
    assert asked == [(2.0, True)] * 2


async def fail(seconds: float) -> None:
    raise ValueError


async def hang(seconds: float) -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize("end", [fail, hang])
async def test_streams_that_fail_or_hang_skip_no_cleanup(
    end: Callable[[float], Awaitable[None]], caplog: pytest.LogCaptureFixture
) -> None:
    service = Service(Drain(delay=0, timeout=0.1, streams=[end]))
    async with service.running() as task:
        with at_most(2.1):
            service.drain.stop()
            await task
    assert service.closed
    assert len(caplog.records) == (end is fail)


async def raising(app: web.Application) -> None:
    raise ValueError("shutdown")


async def hanging(app: web.Application) -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize(("callback", "error"), [(raising, ValueError), (hanging, TimeoutError)])
async def test_an_on_shutdown_that_raises_or_hangs_is_reported_after_all_cleanup(
    callback: Callable[[web.Application], Awaitable[None]], error: type[Exception]
) -> None:
    service = Service(Drain(delay=0, timeout=1))
    service.app.on_shutdown.append(callback)
    async with service.running() as task:
        service.drain.stop()
        with pytest.raises(error):
            await task
    assert service.closed


async def test_a_context_that_fails_to_close_keeps_no_other_from_closing() -> None:
    async def broken(app: web.Application) -> AsyncIterator[None]:
        yield
        raise ValueError("context")

    service = Service(Drain(delay=0, timeout=1))
    service.app.cleanup_ctx.append(broken)
    async with service.running() as task:
        service.drain.stop()
        with pytest.raises(ValueError, match="context"):
            await task
    assert service.closed


async def test_a_context_that_hangs_is_named_and_keeps_no_other_from_closing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def endless(app: web.Application) -> AsyncIterator[None]:
        yield
        await asyncio.Event().wait()

    monkeypatch.setattr(pattern, "CLOSED", 0.1)
    service = Service(Drain(delay=0, timeout=0.1))
    service.app.cleanup_ctx.append(endless)
    async with service.running() as task:
        service.drain.stop()
        with at_most(2), pytest.raises(TimeoutError) as caught:
            await task
    assert service.closed
    assert "in endless" in "".join(traceback.format_exception(caught.value))


async def test_a_context_that_fails_to_open_closes_the_earlier_ones() -> None:
    async def broken(app: web.Application) -> AsyncIterator[None]:
        raise ValueError("context")
        yield

    service = Service(Drain())
    service.app.cleanup_ctx.append(broken)
    with pytest.raises(ValueError, match="context"):
        await service.drain.serve(service.app, HERE)
    assert service.closed


async def test_a_second_signal_skips_the_waiting_and_not_the_cleanup() -> None:
    service = Service(Drain(delay=30, timeout=30, streams=[hang]))
    async with service.running() as task, aiohttp.ClientSession() as session:
        getting = asyncio.create_task(session.get(service.urls[0] + "/slow"))
        await service.begun.wait()
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(0.01)
        with at_most(1.0):
            os.kill(os.getpid(), signal.SIGTERM)
            await task
        assert service.closed
        with suppress(aiohttp.ClientError):
            await getting


async def test_an_address_that_is_taken_is_an_oserror_with_everything_closed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        service = Service(Drain())
        with pytest.raises(OSError, match="address already in use"):
            await service.drain.serve(service.app, Listen(port=taken.getsockname()[1]))
    assert service.closed


async def test_an_unknown_option_is_refused_at_the_start() -> None:
    service = Service(Drain())
    with pytest.raises(TypeError, match="keepalive_timout"):
        await service.drain.serve(service.app, Listen(options={"keepalive_timout": 1}))


async def test_options_reach_the_connections() -> None:
    service = Service(Drain(delay=0, timeout=1))
    listen = Listen(port=0, options={"keepalive_timeout": 0.05})
    serving = service.drain.serve(service.app, listen, on_listening=service.listens)
    task = asyncio.create_task(serving)
    await service.listening.wait()
    host, _, port = service.urls[0].removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    async with asyncio.timeout(2):
        assert await reader.read() == b""
    writer.close()
    service.drain.stop()
    await task


async def test_a_runner_is_prepared_after_its_setup_and_before_it_listens() -> None:
    service, seen = Service(Drain(delay=0)), list[tuple[bool, int]]()

    def prepare(runner: web.AppRunner) -> None:
        seen.append((runner.server is not None, len(runner.sites)))

    listen = Listen(port=0, prepare=prepare)
    service.drain.stop()
    await service.drain.serve(service.app, listen, admin=(web.Application(), listen))
    assert seen == [(True, 0)] * 2


async def test_the_admin_port_answers_until_everything_else_has_ended() -> None:
    service, admin, statuses = Service(Drain(delay=0, timeout=1)), web.Application(), list[int]()
    admin.router.add_get("/readyz", service.ready)

    async def probe(app: web.Application) -> AsyncIterator[None]:
        yield
        async with aiohttp.ClientSession() as session, session.get(service.urls[1]) as response:
            statuses.append(response.status)

    service.app.cleanup_ctx.append(probe)
    async with service.running(admin=(admin, HERE)) as task:
        service.urls = [service.urls[0], service.urls[1] + "/readyz"]
        service.drain.stop()
        await task
    assert statuses == [503]


async def test_where_the_loop_takes_no_signal_handlers_it_serves_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unsupported(*arguments: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(asyncio.get_running_loop(), "add_signal_handler", unsupported)
    monkeypatch.setattr(asyncio.get_running_loop(), "remove_signal_handler", unsupported)
    service = Service(Drain(delay=0, timeout=1))
    async with service.running() as task:
        service.drain.stop()
        await task
    assert service.closed


async def test_a_process_that_holds_only_this_file_exits_0_after_two_signals(
    tmp_path: Path,
) -> None:
    shutil.copy(pattern.__file__, tmp_path / "drain.py")
    (tmp_path / "app.py").write_text(
        textwrap.dedent("""
            import asyncio
            from aiohttp import web
            from drain import Drain, Listen

            async def stuck(request):
                print("begun", flush=True)
                await asyncio.Event().wait()

            async def context(app):
                yield
                print("closed", flush=True)

            app, drain = web.Application(), Drain(delay=30, timeout=30)
            app.middlewares.append(drain.count)
            app.router.add_get("/", stuck)
            app.cleanup_ctx.append(context)
            told = lambda urls: print(*urls, flush=True)
            asyncio.run(drain.serve(app, Listen(port=0), on_listening=told))
        """)
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "default", "app.py", cwd=tmp_path, stdout=-1, stderr=-1
    )
    assert process.stdout is not None
    assert process.stderr is not None
    url = (await process.stdout.readline()).decode().strip()
    host, _, port = url.removeprefix("http://").partition(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    assert await process.stdout.readline() == b"begun\n"
    process.send_signal(signal.SIGTERM)
    await asyncio.sleep(0.05)
    with at_most(10):  # and a minute, if it waited
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
    assert await process.stdout.read() == b"closed\n"
    assert await process.stderr.read() == b""
    writer.close()


async def test_the_wiring_of_the_docstring_works() -> None:
    app = web.Application()
    names: dict[str, object] = {"app": app, "asyncio": asyncio, "Drain": Drain, "Listen": Listen}
    wiring = (pattern.__doc__ or "").split("Wiring::\n\n")[1].split("\n\nNeeds")[0]
    exec(textwrap.dedent(wiring), {**names, "end_streams": fail})  # noqa: S102
    assert len(app.middlewares) == len(app.on_response_prepare) == 1
