import asyncio
import json
import textwrap
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from {{cookiecutter.package_name}}.patterns import cheap_refusal as pattern
from {{cookiecutter.package_name}}.patterns.cheap_refusal import (
    cheap_refusal,
    refusal_bytes,
)

Refuse = Callable[[web.Request, str], web.StreamResponse]
GET = b"GET /a%22b?q=1 HTTP/1.1\r\nHost: x\r\n\r\n"


def refusing(refuse: Refuse) -> Middleware:
    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path == "/fine":
            return web.Response(text="fine")
        return refuse(request, "Come back later.")

    return guard


class Wire:
    """A client that sees bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, *, body: bool = True) -> tuple[str, dict[str, str], bytes]:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.strip().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        length = int(headers.get("Content-Length", 0)) if body else 0
        return first, headers, await self.reader.readexactly(length)


@asynccontextmanager
async def connected(refuse: Refuse, lingering_time: float = 5) -> AsyncGenerator[Wire]:
    app = web.Application(middlewares=[refusing(refuse)])

    async def prepared(request: web.Request, response: web.StreamResponse) -> None:
        response.headers["X-Callback"] = "ran"

    app.on_response_prepare.append(prepared)
    runner = web.AppRunner(app, shutdown_timeout=0.01, lingering_time=lingering_time)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    reader, writer = await asyncio.open_connection(host, port)
    try:
        async with asyncio.timeout(5):
            yield Wire(reader, writer)
    finally:
        writer.close()
        await runner.cleanup()


async def test_a_refusal_is_a_problem_document_with_the_headers_given() -> None:
    refuse = cheap_refusal(headers={"X-Own": "1"}, request_id=lambda _: "id-1")
    async with connected(refuse) as wire:
        await wire.send(GET)
        first, headers, body = await wire.answer()
    assert first == "HTTP/1.1 503 Service Unavailable"
    assert int(headers.pop("Retry-After")) in {1, 2, 3, 4, 5}
    assert headers == {
        "X-Own": "1",
        "Content-Type": "application/problem+json",
        "X-Request-ID": "id-1",
        "Content-Length": str(len(body)),
    }
    assert json.loads(body) == {
        "type": "about:blank",
        "title": "Service Unavailable",
        "status": 503,
        "detail": "Come back later.",
        "instance": "/a%22b",
        "request_id": "id-1",
    }


async def test_the_answer_is_the_same_without_a_request() -> None:
    made = refusal_bytes({"X-Own": "1"})("Come back later.", "/a%22b", "id-1").decode()
    refuse = cheap_refusal(headers={"X-Own": "1"}, request_id=lambda _: "id-1")
    async with connected(refuse) as wire:
        await wire.send(GET)
        first, headers, body = await wire.answer()
    head, _, rest = made.partition("\r\n\r\n")
    lines = head.split("\r\n")
    own = dict(line.split(": ", 1) for line in lines[1:])
    assert (lines[0], rest) == (first, body.decode())
    assert own | {"Retry-After": "1"} == headers | {"Retry-After": "1"}
    assert own["Retry-After"] in {"1", "2", "3", "4", "5"}


async def test_the_connection_lives_on_after_a_refusal() -> None:
    async with connected(cheap_refusal()) as wire:
        for _ in range(3):
            await wire.send(GET)
            assert (await wire.answer())[0].endswith("503 Service Unavailable")
        await wire.send(GET.replace(b"/a%22b", b"/fine"))
        assert (await wire.answer())[2] == b"fine"


async def test_pipelined_requests_are_answered_in_order() -> None:
    fine = GET.replace(b"/a%22b", b"/fine")
    async with connected(cheap_refusal()) as wire:
        await wire.send(GET + fine + GET + fine)
        firsts = [(await wire.answer())[0] for _ in range(4)]
    assert [line.split()[1] for line in firsts] == ["503", "200", "503", "200"]


async def test_a_body_that_has_arrived_does_not_disturb_the_next_request() -> None:
    post = b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
    async with connected(cheap_refusal()) as wire:
        await wire.send(post + GET)
        assert (await wire.answer())[0].endswith("503 Service Unavailable")
        assert (await wire.answer())[0].endswith("503 Service Unavailable")


async def test_a_refused_upgrade_leaves_the_connection_usable() -> None:
    upgrade = GET[:-2] + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    async with connected(cheap_refusal()) as wire:
        await wire.send(upgrade)
        assert (await wire.answer())[0].endswith("503 Service Unavailable")
        await wire.send(GET)
        assert (await wire.answer())[0].endswith("503 Service Unavailable")


async def test_a_body_still_on_its_way_is_refused_and_the_connection_lives_on() -> None:
    expecting = b"POST /fine HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n"
    async with connected(cheap_refusal()) as wire:
        await wire.send(expecting.replace(b"/fine", b"/a"))
        _, headers, _ = await wire.answer()
        assert headers["X-Callback"] == "ran"
        await wire.send(b"hello" + GET)
        assert (await wire.answer())[0].endswith("503 Service Unavailable")


async def test_a_body_that_never_comes_is_cut_after_the_lingering_time() -> None:
    stalled = b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n"
    async with connected(cheap_refusal(), lingering_time=0.01) as wire:
        await wire.send(stalled)
        assert (await wire.answer())[0].endswith("503 Service Unavailable")
        assert await wire.reader.read() == b""


async def test_100_continue_is_followed_by_the_refusal() -> None:
    expecting = b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
    async with connected(cheap_refusal()) as wire:
        await wire.send(expecting)
        assert (await wire.answer())[0] == "HTTP/1.1 100 Continue"
        assert (await wire.answer())[0].endswith("503 Service Unavailable")


@pytest.mark.parametrize(
    "request_bytes",
    [
        GET.replace(b"HTTP/1.1", b"HTTP/1.0"),
        GET[:-2] + b"Connection: close\r\n\r\n",
    ],
    ids=["HTTP/1.0", "Connection: close"],
)
async def test_a_client_that_wants_the_connection_closed_gets_that(request_bytes: bytes) -> None:
    async with connected(cheap_refusal()) as wire:
        await wire.send(request_bytes)
        _, headers, body = await wire.answer()
        assert headers["X-Callback"] == "ran"
        assert json.loads(body)["status"] == 503
        assert await wire.reader.read() == b""


async def test_a_refused_head_request_has_no_body() -> None:
    async with connected(cheap_refusal()) as wire:
        await wire.send(GET.replace(b"GET", b"HEAD") + GET)
        _, headers, _ = await wire.answer(body=False)
        assert int(headers["Content-Length"]) > 0
        assert (await wire.answer())[0].endswith("503 Service Unavailable")


async def test_a_browser_gets_a_response_that_callbacks_have_seen() -> None:
    async with connected(cheap_refusal()) as wire:
        await wire.send(GET[:-2] + b"Origin: https://x.example\r\n\r\n")
        assert (await wire.answer())[1]["X-Callback"] == "ran"


async def test_while_draining_callbacks_see_every_refusal() -> None:
    draining = False
    async with connected(cheap_refusal(draining=lambda: draining)) as wire:
        await wire.send(GET)
        assert "X-Callback" not in (await wire.answer())[1]
        draining = True
        await wire.send(GET)
        assert (await wire.answer())[1]["X-Callback"] == "ran"


async def test_a_client_that_left_is_not_written_to(caplog: pytest.LogCaptureFixture) -> None:
    done = asyncio.Event()
    refuse = cheap_refusal()

    def abort(request: web.Request, detail: str) -> web.StreamResponse:
        assert request.protocol.transport is not None
        response = refuse(request, detail)
        request.protocol.force_close()
        done.set()
        return response

    async with connected(abort) as wire:
        await wire.send(GET)
        assert await wire.reader.read() == b""
        await done.wait()
    assert not caplog.records


async def test_a_client_that_pipelines_and_does_not_read_is_waited_for() -> None:
    refused = 0
    refuse = cheap_refusal(headers={"X-Long": "x" * 60_000})

    def counting(request: web.Request, detail: str) -> web.StreamResponse:
        nonlocal refused
        refused += 1
        return refuse(request, detail)

    requests = 1000
    async with connected(counting) as wire:
        wire.reader._transport.pause_reading()  # type: ignore[attr-defined]  # as if it did not read
        await wire.send(GET * requests)
        before = -1
        while before != refused:
            before = refused
            for _ in range(200):
                await asyncio.sleep(0)
        assert refused < requests
        wire.reader._transport.resume_reading()  # type: ignore[attr-defined]  # now it does
        for _ in range(requests):
            await wire.reader.readuntil(b"\r\n\r\n")
            await wire.reader.readuntil(b"}")
    assert refused == requests


async def test_the_wiring_of_the_docstring_works() -> None:
    app = web.Application()
    wiring = textwrap.dedent((pattern.__doc__ or "").split("Wiring::")[1].split("Needs:")[0])
    names = {"app": app, "new_id": lambda _: "id", "shed_load": refusing}
    exec(wiring, {**vars(pattern), **names})  # noqa: S102
    assert len(app.middlewares) == 1
