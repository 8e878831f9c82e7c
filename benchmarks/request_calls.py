"""What a request costs, without a clock: the calls of functions, Python's and C's, that it takes.

    python benchmarks/request_calls.py PATH_OF_A_GENERATED_SERVICE [--case POST]

Run it with the Python of an environment that has the service's packages. The same requests as in
`request_cost.py` are fed to the server's own protocol, on transports that keep the answer, in this
process; so nothing that other programs do changes a figure. Beside the service it counts a bare
aiohttp application, and lists what the service calls beyond it. On CPython 3.11 a call is worth
about a quarter of a microsecond; what it does inside C is not seen.
"""

import argparse
import asyncio
import os
import sys
from collections import Counter
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any

from aiohttp import web
from request_cost import ANSWER, CASES, SMALL, package_of, service_environment

CONNECTIONS, WARM, ROUNDS = 8, 20, 40
Calls = Counter[str]


class Transport(asyncio.Transport):
    """Keeps what is written to it, and says when."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 80)})
        self.loop, self.answered, self.written = loop, loop.create_future(), b""

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self.protocol

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written = bytes(data)
        self.answered.set_result(None)

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def close(self) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...

    def ask(self, data: bytes) -> None:
        self.answered = self.loop.create_future()
        self.protocol.data_received(data)  # type: ignore[attr-defined]  # it is a Protocol


async def bare() -> web.AppRunner:
    async def post(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(body=ANSWER, status=201, content_type="application/json")

    async def get(_: web.Request) -> web.Response:
        return web.Response(body=SMALL, content_type="application/json")

    app = web.Application()
    for path in ("/api/v1/rooms/{room}/messages", "/api/v1/whoami", "/livez"):
        app.router.add_get(path, get)
        app.router.add_post(path, post)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    return runner


async def service(folder: Path) -> web.AppRunner:
    env = service_environment(folder, "http://127.0.0.1:1")
    os.environ.update(env)
    sys.path.insert(0, env["PYTHONPATH"])
    package = package_of(folder)
    main = import_module(f"{package}.__main__")
    sink = os.open(os.devnull, os.O_WRONLY)
    app = main.create_app(main.load_settings(), lambda line: os.write(sink, line))
    runner = web.AppRunner(app, access_log=None, handle_signals=False, **main.OPTIONS)
    await runner.setup()
    main.before_routing(runner)
    return runner


async def count(runner: web.AppRunner, request: bytes, status: int) -> Calls:
    """Calls by name, of all requests together, without those of the transport."""
    transports = [Transport(asyncio.get_running_loop()) for _ in range(CONNECTIONS)]
    assert runner.server is not None
    for transport in transports:
        transport.set_protocol(handler := runner.server())
        handler.connection_made(transport)
    calls: Calls = Counter()

    def called(frame: FrameType, event: str, argument: Any) -> None:
        if event in {"call", "c_call"} and frame.f_code.co_filename != __file__:
            calls[name_of(frame, argument)] += 1

    for number in range(WARM + ROUNDS):
        if number == WARM:
            sys.setprofile(called)
        for transport in transports:
            transport.ask(request)
        for transport in transports:
            await transport.answered
    sys.setprofile(None)
    for transport in transports:
        if not transport.written.startswith(b"HTTP/1.1 %d" % status):
            raise SystemExit(f"{transport.written!r}")
    return calls


def name_of(frame: FrameType, argument: Any) -> str:
    if argument is not None:
        return f"{getattr(argument, '__qualname__', argument)} (C)"
    file = Path(frame.f_code.co_filename)
    return f"{frame.f_code.co_qualname} ({file.parent.name}/{file.name})"


async def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("service", type=Path)
    parser.add_argument("--case", default="POST", help="how the name of a case begins")
    parser.add_argument("--top", type=int, default=40)
    given = parser.parse_args()
    floor, ours = await bare(), await service(given.service)
    (name,) = [name for name in CASES if name.startswith(given.case)][:1]
    request, status = CASES[name].request, CASES[name].status
    requests = CONNECTIONS * ROUNDS
    before, after = await count(floor, request, status), await count(ours, request, status)
    print(f"{name}: bare {before.total() / requests:.0f}, service {after.total() / requests:.0f}")
    after.subtract(before)
    for function, more in after.most_common(given.top):
        print(f"{more / requests:6.1f}  {function}")
    await ours.cleanup()
    await floor.cleanup()


if __name__ == "__main__":
    asyncio.run(main())
