"""The generated service with a few routes to measure on; `overload.py` starts it as a process.

    python bench_server.py PATH_OF_GENERATED_SERVICE {adaptive,none,bare,NUMBER} [--loop uvloop]

All but these routes is the service's own, its server too. `none` and a NUMBER are its own settings
too: a fixed limit out of reach, and that limit. `bare` is aiohttp by itself. The address is printed
as soon as it listens.
"""

import argparse
import asyncio
import gc
import json
import logging
import os
import secrets
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from aiohttp import web

POOL = asyncio.Semaphore(10)


def burn(seconds: float) -> int:
    """Use so much CPU time, however often the machine takes the core away; how often it looked."""
    until, looks = time.thread_time() + seconds, 0
    while time.thread_time() < until:
        looks += 1
    return looks


async def light(request: web.Request) -> web.Response:
    return web.Response(body=b'{"ok":true}', content_type="application/json")


async def wait(request: web.Request) -> web.Response:
    await asyncio.sleep(int(request.match_info["ms"]) / 1000)
    return await light(request)


async def cpu(request: web.Request) -> web.Response:
    burn(0.0005)  # before and after the waiting, as validating and serialising are
    await asyncio.sleep(int(request.match_info["ms"]) / 1000)
    burn(0.0005)
    return await light(request)


async def in_step(request: web.Request) -> web.Response:
    await asyncio.sleep(int(request.match_info["ms"]) / 1000)
    burn(0.001)
    return await light(request)


async def never_awaits(request: web.Request) -> web.Response:
    burn(0.001)
    return await light(request)


async def pooled(request: web.Request) -> web.Response:
    async with POOL:
        await asyncio.sleep(0.020)
    return await light(request)


ROUTES = {
    "/light": light,
    "/wait/{ms}": wait,
    "/cpu/{ms}": cpu,
    "/step/{ms}": in_step,
    "/never": never_awaits,
    "/pool": pooled,
}


async def state(request: web.Request) -> web.Response:
    """What must not grow: tasks, permits; for `soak.py`."""
    (permits,) = (thing for thing in gc.get_objects() if type(thing).__name__ == "Permits")
    found = {"tasks": len(asyncio.all_tasks()), "permits": permits.in_flight}
    return web.json_response(found | {"streams": permits.streams, "waiting": permits.waiting})


LOOKS: list[int] = []


async def look(app: web.Application) -> AsyncIterator[None]:
    """Every 50 ms, how often `burn` gets to look: a shared machine is at times half as fast."""

    async def forever() -> None:
        while True:
            await asyncio.sleep(0.05)
            LOOKS.append(burn(0.0001))

    task = asyncio.create_task(forever())
    yield
    task.cancel()


async def pace(request: web.Request) -> web.Response:
    """The mean since it was asked last."""
    mean = sum(LOOKS) / max(1, len(LOOKS))
    LOOKS.clear()
    return web.Response(text=f"{mean:.2f}")


Serve = Callable[[], Coroutine[Any, Any, None]]


def service(folder: Path, limit: str, **given: object) -> Serve:
    sys.path.insert(0, str(folder / "src"))
    (package,) = (path.parent.name for path in (folder / "src").glob("*/app.py"))
    part = partial(import_module, package=package)
    changes: dict[str, Any] = {}
    if limit != "adaptive":
        number = 10**9 if limit == "none" else int(limit)
        changes = {"adaptive_concurrency": False, "max_concurrency": number}
    settings = part(".settings").Settings.model_validate(
        {
            "env": "prod",
            "jwt_secret": secrets.token_hex(32),
            "jwt_issuer": "benchmark",
            "jwt_audience": "benchmark",
            "drain_delay": 0,
            "shutdown_timeout": 0.5,
        }
        | changes
        | given
    )
    write = partial(os.write, os.open(os.devnull, os.O_WRONLY))
    app = part(".app").create_app(settings, write)
    public = part(".patterns.jwt_auth").public
    app.add_routes([web.get(path, public(handler)) for path, handler in ROUTES.items()])
    never_shed = part(".patterns.backpressure").never_shed
    app.add_routes([web.get(f"/{h.__name__}", public(never_shed(h))) for h in (state, pace)])
    app.cleanup_ctx.append(look)
    drain = app[part(".app").DRAIN]
    main = part(".__main__")
    listen = part(".patterns.drain").Listen(
        port=0, options=main.OPTIONS, prepare=main.before_routing
    )

    def listening(urls: Sequence[str]) -> None:
        announce(urls[0])
        if settings.env == "dev":
            scopes = ["rooms:read", "rooms:write", "rates:read"]
            announce(part(".dev").dev_token(settings, sub="soak", scopes=scopes))

    return partial(drain.serve, app, listen, on_listening=listening)


def announce(url: str) -> None:
    print(url, flush=True)


async def serve_bare() -> None:
    app = web.Application()
    app.add_routes([web.get(path, handler) for path, handler in ROUTES.items()])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=1024)
    await site.start()
    announce(f"http://127.0.0.1:{runner.addresses[0][1]}")
    await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("service", type=Path)
    parser.add_argument("limit")
    parser.add_argument("--loop", default="asyncio")
    parser.add_argument("--core", type=int)
    parser.add_argument("--settings", default="{}", help="more settings, as a JSON object")
    given = parser.parse_args()
    if given.core is not None:
        os.sched_setaffinity(0, {given.core})
    logging.basicConfig(level=logging.ERROR)
    factory = import_module(given.loop).new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        if given.limit == "bare":
            runner.run(serve_bare())
        else:
            runner.run(
                service(given.service.resolve(), given.limit, **json.loads(given.settings))()
            )


if __name__ == "__main__":
    main()
