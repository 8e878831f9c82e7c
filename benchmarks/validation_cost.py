"""What typed handlers cost: server CPU per request, beside pydantic and aiohttp by hand.

    python benchmarks/validation_cost.py PATH_OF_A_GENERATED_SERVICE

Run it with the Python of an environment that has the service's packages. The server is a process
of its own: a bare application that has each handler twice, typed, and written by hand as one would
who knows both libraries: adapters and models made at start, the same checks (type of the body,
constraints, a parameter that comes twice), the same answer. Both are visited in a new random order
each round and compared within the round; the median of the ratios is what to look at. The CPU is
the server's own process time, user and system, aiohttp's part included.
"""

import asyncio
import importlib
import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

if TYPE_CHECKING:
    from aiohttp import web

ROUNDS, REQUESTS, CONNECTIONS = 40, 400, 16
BAR = 1.15  # times the cost by hand
BODY = b'{"text":"hello, world"}'
REQUEST_LINES = {
    "POST": "POST /%s/lobby HTTP/1.1\r\nContent-Type: application/json\r\n"
    f"Content-Length: {len(BODY)}\r\n",
    "GET": "GET /%s/lobby?limit=10&after=17-0 HTTP/1.1\r\n",
}


def application(package: str) -> "web.Application":
    """Each handler twice: typed, and by hand."""
    from aiohttp import web  # noqa: PLC0415  # the generator needs none of it
    from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError  # noqa: PLC0415

    patterns = f"{package}.patterns"
    parts = importlib.import_module(f"{patterns}.request_parts")
    handlers = importlib.import_module(f"{patterns}.typed_handlers")

    room_type = Annotated[str, Field(pattern=r"^[a-z0-9-]{1,64}$")]
    limit_type = Annotated[int, Field(ge=1, le=100)]
    after_type = Annotated[str, Field(max_length=64)] | None

    class New(BaseModel):
        model_config = ConfigDict(extra="forbid")
        text: Annotated[str, Field(min_length=1, max_length=2000)]

    class Message(BaseModel):
        id: str
        room: str
        author: str
        text: str

    class Page(BaseModel):
        items: list[Message]
        next: str | None

    def page(room: str, limit: int, after: str | None) -> Page:
        message = Message(id="17-1", room=room, author="ann", text=str(limit))
        return Page(items=[message] * 3, next=after)

    @handlers.typed
    async def typed_post(
        room: parts.Path[room_type], body: parts.Body[New]
    ) -> handlers.Reply[Message, Literal[201]]:
        message = Message(id="17-1", room=room, author="ann", text=body.text)
        return handlers.Reply(message, 201, {"Location": "/x"})

    @handlers.typed
    async def typed_get(
        room: parts.Path[room_type],
        limit: parts.Query[limit_type] = 50,
        after: parts.Query[after_type] = None,
    ) -> Page:
        return page(room, limit, after)

    rooms, limits, afters = (TypeAdapter(each) for each in (room_type, limit_type, after_type))
    json = "application/json"

    async def hand_post(request: web.Request) -> web.Response:
        if request.content_type != json or (request.charset or "utf-8").lower() != "utf-8":
            raise web.HTTPUnsupportedMediaType
        try:
            room = rooms.validate_python(request.match_info["room"])
            body = New.model_validate_json(await request.read(), strict=True)
        except ValidationError as error:
            raise web.HTTPUnprocessableEntity(text=error.json()) from None
        message = Message(id="17-1", room=room, author="ann", text=body.text)
        text, headers = message.model_dump_json(by_alias=True), {"Location": "/x"}
        return web.Response(text=text, status=201, headers=headers, content_type=json)

    async def hand_get(request: web.Request) -> web.Response:
        query = request.query
        if any(len(query.getall(name)) > 1 for name in query):
            raise web.HTTPUnprocessableEntity
        try:
            room = rooms.validate_python(request.match_info["room"])
            limit = limits.validate_python(query.get("limit", 50))
            after = afters.validate_python(query.get("after"))
        except ValidationError as error:
            raise web.HTTPUnprocessableEntity(text=error.json()) from None
        text = page(room, limit, after).model_dump_json(by_alias=True)
        return web.Response(text=text, content_type=json)

    app = web.Application()
    app[parts.READ_BODY] = web.Request.read
    app.router.add_post("/typed/{room}", typed_post)
    app.router.add_get("/typed/{room}", typed_get)
    app.router.add_post("/hand/{room}", hand_post)
    app.router.add_get("/hand/{room}", hand_get)
    return app


async def serve(package: str) -> None:
    """Serve them, and the CPU time taken so far; prints the port."""
    from aiohttp import web  # noqa: PLC0415

    async def cpu(_: web.Request) -> web.Response:
        return web.Response(text=f"{time.process_time():.9f}")

    app = application(package)
    app.router.add_get("/cpu", cpu)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


class Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def ask(self, request: bytes) -> bytes:
        self.writer.write(request)
        head = await self.reader.readuntil(b"\r\n\r\n")
        if not head.startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 201 ")):
            raise SystemExit(f"{request!r}: {head.decode()}")
        length = head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]
        return await self.reader.readexactly(int(length))


async def cost(connections: list[Connection], request: bytes) -> float:
    """Microseconds of the server's CPU for one request of this kind."""
    cpu = b"GET /cpu HTTP/1.1\r\nHost: b\r\n\r\n"

    async def client(connection: Connection) -> None:
        for _ in range(REQUESTS // CONNECTIONS):
            await connection.ask(request)

    before = float(await connections[0].ask(cpu))
    await asyncio.gather(*(client(connection) for connection in connections))
    return (float(await connections[0].ask(cpu)) - before) / REQUESTS * 1e6


async def measure(port: int) -> dict[tuple[str, str], list[float]]:
    connections = [
        Connection(*await asyncio.open_connection("127.0.0.1", port)) for _ in range(CONNECTIONS)
    ]
    taken: dict[tuple[str, str], list[float]] = {
        (method, how): [] for method in REQUEST_LINES for how in ("typed", "hand")
    }
    requests: dict[tuple[str, str], bytes] = {}
    for method, how in taken:
        head = f"{REQUEST_LINES[method] % how}Host: b\r\n\r\n"
        requests[method, how] = head.encode() + (BODY if method == "POST" else b"")
        same = await connections[0].ask(requests[method, how])
        if how == "hand" and same != await connections[0].ask(requests[method, "typed"]):
            raise SystemExit(f"{method}: the answers differ")
    for round_number in range(ROUNDS + 1):  # the first warms up
        order = list(taken)
        random.shuffle(order)
        for each in order:
            microseconds = await cost(connections, requests[each])
            if round_number:
                taken[each].append(microseconds)
    return taken


def report(taken: dict[tuple[str, str], list[float]]) -> bool:
    print(f"{ROUNDS} rounds of {REQUESTS} requests a row, {CONNECTIONS} connections; CPU in µs\n")
    print("| request | typed | by hand | ratio (quartiles) |")
    print("|---|---|---|---|")
    worst = 0.0
    for method in REQUEST_LINES:
        typed, hand = taken[method, "typed"], taken[method, "hand"]
        ratios = [one / other for one, other in zip(typed, hand, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        worst = max(worst, middle)
        costs = f"{statistics.median(typed):.1f} | {statistics.median(hand):.1f}"
        print(f"| {method} | {costs} | {middle:.3f} ({low:.3f} to {high:.3f}) |")
    print(f"\nthe worse ratio is {worst:.3f}; the bar is {BAR}")
    return worst <= BAR


def main(arguments: list[str]) -> int:
    if arguments[0] == "--serve":
        asyncio.run(serve(arguments[1]))
        return 0
    service = Path(arguments[0]).resolve()
    (app,) = (service / "src").glob("*/app.py")
    given = os.environ | {"PYTHONPATH": str(service / "src")}
    command = [sys.executable, __file__, "--serve", app.parent.name]
    with subprocess.Popen(command, env=given, stdout=subprocess.PIPE, text=True) as server:
        try:
            port = server.stdout.readline() if server.stdout is not None else ""
            taken = asyncio.run(measure(int(port)))
        finally:
            server.kill()
    return 0 if report(taken) else 1


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1:]))
