"""Notes, as a part mounted in another, state under text keys: there before any pattern."""

import asyncio

from aiohttp import web
from aiohttp.typedefs import Handler


async def listed(request: web.Request) -> web.Response:
    return web.json_response(request.config_dict["notes"])


async def mine(request: web.Request) -> web.Response:
    return web.json_response([note for note in request.config_dict["notes"] if "mine" in note])


async def slow(request: web.Request) -> web.Response:
    await request.app["gate"].wait()
    return web.Response(text="done")


async def broken(request: web.Request) -> web.Response:
    raise RuntimeError(f"secret of {request.path}")


@web.middleware
async def version(request: web.Request, handler: Handler) -> web.StreamResponse:
    """What the application's own middleware stores, next to what the patterns store."""
    request["version"] = "1"
    return await handler(request)


def create_api(gate: asyncio.Event) -> web.Application:
    api = web.Application(middlewares=[version])
    api["gate"] = gate
    api.router.add_get("/notes", listed)
    api.router.add_get("/mine", mine)
    api.router.add_get("/slow", slow)
    api.router.add_get("/broken", broken)
    return api


def create_app(api: web.Application) -> web.Application:
    app = web.Application()
    app["notes"] = ["mine", "yours"]
    app.add_subapp("/api", api)
    return app
