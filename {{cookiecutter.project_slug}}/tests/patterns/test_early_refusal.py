import asyncio
import itertools
import random
import re
import socket
import textwrap
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.typedefs import Handler

from {{cookiecutter.package_name}}.patterns import early_refusal as pattern
from {{cookiecutter.package_name}}.patterns.early_refusal import (
    Gate,
    paths_of,
    refuse_early,
)

GET = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
TRICK = b"GET /trick HTTP/1.1\r\n\r\n"


@dataclass
class Service:
    """A server that is full, or not; `parsed` are the paths of the requests that aiohttp saw."""

    full: bool = True
    parsed: list[str] = field(default_factory=list[str])
    asked: list[int] = field(default_factory=list[int])
    padding: str = ""
    admits: Callable[[int], bool] | None = None
    crowded: bool = True

    def __post_init__(self) -> None:
        self.gate = Gate(
            crowded=lambda: self.crowded,
            admits=self.admit,
            spared=lambda path: path == "/livez",
            answer=self.answer,
        )

    def admit(self, promised: int) -> bool:
        self.asked.append(promised)
        return self.admits(promised) if self.admits else not self.full

    def answer(self, path: str, known: str) -> bytes:
        body = f"{path} {known}{self.padding}"
        return f"HTTP/1.1 503 Early\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


class Wire:
    """A client that sees bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def ask(self, data: bytes) -> tuple[int, str]:
        await self.send(data)
        return await self.answer()

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self) -> tuple[int, str]:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        length = re.search(r"Content-Length: (\d+)", head)
        body = await self.reader.readexactly(int(length[1])) if length else b""
        return int(head.split()[1]), body.decode()


@asynccontextmanager
async def serving(
    service: Service, handler: Handler | None = None
) -> AsyncGenerator[web.AppRunner]:
    @web.middleware
    async def note(request: web.Request, handler: Handler) -> web.StreamResponse:
        service.parsed.append(request.path)
        return await handler(request)

    async def echo(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(text=f"{request.path} late")

    app = web.Application(middlewares=[note])
    app.router.add_route("*", "/{any:.*}", handler or echo)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01)
    await runner.setup()
    assert runner.server is not None
    refuse_early(runner.server, service.gate)
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with asyncio.timeout(10):
            yield runner
    finally:
        await runner.cleanup()


@asynccontextmanager
async def connected(service: Service) -> AsyncGenerator[Wire]:
    async with serving(service) as runner:
        reader, writer = await asyncio.open_connection(*runner.addresses[0][:2])
        try:
            yield Wire(reader, writer)
        finally:
            writer.close()


async def passes(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_full_service_answers_without_aiohttp_and_the_connection_lives_on() -> None:
    service = Service()
    async with connected(service) as wire:
        for _ in range(3):
            assert (await wire.ask(GET))[0] == 503
        assert service.parsed == []
        service.full = False
        assert await wire.ask(GET) == (200, "/a late")


async def test_nobody_is_asked_while_limits_are_far() -> None:
    service = Service(crowded=False)
    async with connected(service) as wire:
        assert (await wire.ask(GET))[0] == 200
    assert service.asked == []


async def test_the_path_is_told_without_its_query() -> None:
    async with connected(Service()) as wire:
        _, body = await wire.ask(GET.replace(b"/a", b"/a/B-1.x_~?ticket=secret%20"))
    assert body.split()[0] == "/a/B-1.x_~"


@pytest.mark.parametrize("name", [b"X-Request-ID", b"x-request-id"])
async def test_the_id_of_the_client_is_taken_as_it_is(name: bytes) -> None:
    async with connected(Service()) as wire:
        _, body = await wire.ask(GET[:-2] + name + b": Ab.c-_9\r\n\r\n")
    assert body == "/a Ab.c-_9"


@pytest.mark.parametrize("offered", [b"", b"a b", b"a\tb", b"<x>", b"a" * 65])
async def test_an_id_that_is_not_well_formed_is_replaced(offered: bytes) -> None:
    async with connected(Service()) as wire:
        _, body = await wire.ask(GET[:-2] + b"X-Request-ID: " + offered + b"\r\n\r\n")
    assert re.fullmatch(r"/a [0-9a-f]{32}", body)


async def test_a_request_with_all_of_its_body_is_refused() -> None:
    service = Service()
    async with connected(service) as wire:
        assert (await wire.ask(POST))[0] == 503
        assert (await wire.ask(GET))[0] == 503
        assert service.parsed == []


async def test_spared_paths_are_left_to_aiohttp() -> None:
    async with connected(Service()) as wire:
        assert await wire.ask(GET.replace(b"/a", b"/livez")) == (200, "/livez late")


def test_the_paths_of_some_handlers_are_known_before_routing(tmp_path: Path) -> None:
    async def here(request: web.Request) -> web.Response:
        return web.Response()

    async def spared(request: web.Request) -> web.Response:
        return web.Response()

    app, inner = web.Application(), web.Application()
    app.router.add_get("/plain", here)
    app.router.add_get("/both", here)
    app.router.add_post("/both", spared)
    app.router.add_get("/events/{name}", spared)
    app.router.add_static("/static", tmp_path)
    inner.router.add_get("/livez", spared)
    inner.router.add_get("/{name}/events", spared)
    app.add_subapp("/inner", inner)
    among = paths_of(app, lambda handler, method: handler is spared)
    for path in ("/both", "/events/one", "/inner/livez", "/inner/one/events"):
        assert among(path), path
    for path in ("/plain", "/events", "/events/", "/events/a/b", "/livez", "/static/x", "/no"):
        assert not among(path), path


@pytest.mark.parametrize(
    "data",
    [
        GET.replace(b"GET", b"OPTIONS"),
        GET.replace(b"GET", b"BREW"),
        GET.replace(b"/a", b"/%61"),
        GET.replace(b"/a", b"//a"),
        GET.replace(b"/a", b"http://x/a"),
        GET.replace(b"1.1", b"1.0"),
        GET[:-2] + b"Connection: close\r\n\r\n",
        GET[:-2] + b"Connection: keep-alive, Upgrade\r\n\r\n",
        GET[:-2] + b"Upgrade: other\r\n\r\n",
        GET[:-2] + b"Origin: https://x.example\r\n\r\n",
        GET[:-2] + b"Content-Length: 0\r\nContent-Length: 0\r\n\r\n",
        GET[:-2] + b"Content-Length: 5 \r\n\r\nhello",
        GET[:-2] + b"Content-Length: +5\r\n\r\nhello",
        GET[:-2] + b"Content-Length\t: 5\r\n\r\nhello",
        GET[:-2] + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        GET[:-2] + b"Long: " + b"x" * 8200 + b"\r\n\r\n",
        GET.replace(b"\r\n", b"\n"),
        GET[:-2] + b"A: b\n\r\n",
        GET[:-2] + b" folded\r\n\r\n",
        b"\r\n" + GET,
        b"rubbish\r\n\r\n",
    ],
)
async def test_what_is_not_plain_is_left_to_aiohttp(data: bytes) -> None:
    service = Service()
    async with connected(service) as wire:
        await wire.send(data)
        head = (await wire.reader.readuntil(b"\r\n\r\n")).split()
    assert head[1:3] != [b"503", b"Early"]
    assert service.asked == []


@pytest.mark.parametrize("passed", [POST, GET.replace(b"GET", b"OPTIONS")])
async def test_after_what_was_left_to_aiohttp_the_next_can_be_refused(passed: bytes) -> None:
    service = Service(full=False)
    async with connected(service) as wire:
        assert (await wire.ask(passed))[0] == 200
        service.full = True
        assert (await wire.ask(GET))[0] == 503
    assert service.parsed == ["/a"]


async def test_a_chunked_body_may_come_later() -> None:
    head = GET.replace(b"GET", b"POST")[:-2] + b"Transfer-Encoding: chunked\r\n\r\n"
    async with connected(Service()) as wire:
        await wire.send(head)
        await passes()
        assert await wire.ask(b"5\r\nhello\r\n0\r\n\r\n") == (200, "/a late")


async def test_an_expectation_is_left_to_aiohttp() -> None:
    async with connected(Service()) as wire:
        head, body = POST.split(b"\r\n\r\n")
        await wire.send(head + b"\r\nExpect: 100-continue\r\n\r\n" + body)
        assert (await wire.answer())[0] == 100
        assert (await wire.answer())[0] == 200


async def test_keep_alive_may_be_said() -> None:
    async with connected(Service()) as wire:
        assert (await wire.ask(GET[:-2] + b"Connection: keep-alive\r\n\r\n"))[0] == 503


async def test_the_end_of_a_head_that_looks_like_a_request_is_no_request() -> None:
    service = Service()
    async with connected(service) as wire:
        await wire.send(b"GET /first HTTP/1.1\r\nHost: x\r\nX: ")
        await passes()
        assert await wire.ask(TRICK) == (200, "/first late")
        assert (await wire.ask(GET))[0] == 503
    assert service.parsed == ["/first"]


async def test_a_body_that_looks_like_a_request_is_no_request() -> None:
    service = Service()
    async with connected(service) as wire:
        await wire.send(b"POST /first HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(GET))
        await passes()
        assert await wire.ask(GET) == (200, "/first late")
    assert service.parsed == ["/first"]


async def test_what_follows_an_unfinished_request_waits_for_its_answer() -> None:
    service = Service()
    async with connected(service) as wire:
        await wire.send(b"POST /first HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n")
        await passes()
        await wire.send(b"hel")
        await passes()
        await wire.send(b"lo" + GET)
        assert await wire.answer() == (200, "/first late")
        assert await wire.answer() == (200, "/a late")


def requests(dice: random.Random) -> list[bytes]:
    """Eight requests to /0 to /7, of which some have what looks like another inside."""
    trap = GET[:-2] + b"X: " + TRICK
    body = POST.replace(b"5", b"%d" % len(TRICK)).replace(b"hello", TRICK)
    return [dice.choice([GET, POST, trap, body]).replace(b"/a", b"/%d" % n) for n in range(8)]


async def test_each_request_gets_its_own_answer_however_the_bytes_are_cut() -> None:
    dice = random.Random(1)  # noqa: S311  # no secret
    for _ in range(150):
        sent = b"".join(parts := requests(dice))
        between = list(itertools.accumulate(map(len, parts)))
        inside = [match.start() for match in re.finditer(TRICK, sent)]
        cuts = {at for at in between + inside if dice.random() < 0.7}
        cuts |= {dice.randrange(len(sent)) for _ in range(dice.randrange(6))}
        async with connected(Service(admits=lambda _: dice.random() < 0.3)) as wire:
            for begin, end in itertools.pairwise(sorted(cuts | {0, len(sent)})):
                await wire.send(sent[begin:end])
                await passes(dice.choice([1, 10]))
            answers = [(await wire.answer())[1].split()[0] for _ in parts]
        assert answers == [f"/{number}" for number in range(8)]


async def test_what_arrives_in_one_pass_is_not_let_through_as_a_whole() -> None:
    service = Service(admits=lambda promised: promised < 3)
    async with serving(service) as runner:
        address = runner.addresses[0][:2]
        wires = [Wire(*await asyncio.open_connection(*address)) for _ in range(20)]
        await passes()
        for wire in wires:  # written to the kernel at once, as no write is pending
            wire.writer.write(GET)
        answers = [(await wire.answer())[0] for wire in wires]
        await close(wires)
    assert sorted(answers) == [200] * 3 + [503] * 17
    assert len(service.parsed) == 3


async def test_what_arrives_before_the_last_is_counted_is_counted_with_it() -> None:
    service = Service()
    service.admits = lambda promised: promised + len(service.parsed) < 2
    async with serving(service) as runner:
        address = runner.addresses[0][:2]
        wires = [Wire(*await asyncio.open_connection(*address)) for _ in range(10)]
        await passes()
        for wire in wires:
            wire.writer.write(GET)
            await passes(1)
        answers = [(await wire.answer())[0] for wire in wires]
        await close(wires)
    assert sorted(answers) == [200] * 2 + [503] * 8


async def close(wires: Sequence[Wire]) -> None:
    for wire in wires:
        wire.writer.close()
        await wire.writer.wait_closed()


async def test_a_promise_to_what_never_becomes_a_request_is_forgotten() -> None:
    service = Service(full=False)
    async with connected(service) as wire:
        await wire.send(GET.replace(b"Host:", b"Ho\x01st:"))
        assert (await wire.answer())[0] == 400
        await passes()
    assert service.asked == [0]
    assert service.gate.promised == 0
    assert service.parsed == []


async def test_a_client_that_does_not_read_is_left_to_aiohttp() -> None:
    service = Service(padding="x" * 60_000)
    async with serving(service) as runner:
        with socket.create_connection(runner.addresses[0][:2]) as client:
            client.setblocking(False)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for _ in range(1000):
                if service.parsed:
                    break
                await asyncio.get_running_loop().sock_sendall(client, GET)
                await passes()
    assert service.parsed


async def test_aiohttp_hears_that_a_client_reads_slowly_and_that_it_left() -> None:
    written, left = 0, asyncio.Event()

    async def stream(request: web.Request) -> web.StreamResponse:
        nonlocal written
        response = web.StreamResponse()
        await response.prepare(request)
        with suppress(ConnectionError):
            while written < 1000:  # 100 MB, which nothing would hold but a buffer without bounds
                await response.write(b"x" * 100_000)
                written += 1
        left.set()
        return response

    async with serving(Service(crowded=False), stream) as runner:
        reader, writer = await asyncio.open_connection(*runner.addresses[0][:2], limit=1000)
        writer.write(GET)
        before = -1
        while before != written or not written:
            before = written
            await passes(200)
        assert written < 1000
        await reader.readexactly(20_000_000)
        assert written > before
        writer.transport.abort()
        await left.wait()
        await passes()
        assert runner.server is not None
        assert runner.server.connections == []


class Behind:
    """Of aiohttp's protocol what the pattern uses."""

    def __init__(self) -> None:
        self.received: list[bytes] = []

    def data_received(self, data: bytes) -> None:
        self.received.append(data)


async def received(handler: Behind) -> list[bytes]:
    gate = Service().gate
    connection = pattern._Connection(gate, handler, asyncio.Transport())  # type: ignore[arg-type]  # a stand-in
    connection.data_received(GET)
    return handler.received


async def test_without_the_sign_of_an_idle_connection_nobody_is_refused() -> None:
    assert await received(Behind()) == [GET]


async def test_a_connection_about_to_wake_or_to_close_is_not_idle() -> None:
    class Woken(Behind):
        def __init__(self) -> None:
            super().__init__()
            self._waiter = asyncio.get_running_loop().create_future()
            self._waiter.set_result(None)

    assert await received(Woken()) == [GET]


async def test_the_wiring_of_the_docstring_works() -> None:
    service = Service()
    runner = web.AppRunner(web.Application())
    wiring = textwrap.dedent((pattern.__doc__ or "").split("Wiring::")[1].split("Needs:")[0])
    names: dict[str, object] = {**vars(pattern), "runner": runner, "crowded": lambda: True}
    names |= {"admits": service.admit, "spared": lambda _: False, "answer": service.answer}
    exec(f"async def wire():{textwrap.indent(wiring, '    ')}", names)  # noqa: S102
    wire = names["wire"]
    assert callable(wire)
    await wire()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    client = Wire(*await asyncio.open_connection(*runner.addresses[0][:2]))
    assert (await client.ask(GET))[0] == 503
    await close([client])
    await runner.cleanup()
