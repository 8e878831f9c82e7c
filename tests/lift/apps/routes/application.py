"""Notes, as functions in a route table: an application that was there before any pattern."""

import asyncio

from aiohttp import web

NOTES = web.AppKey("notes", list[str])
GATE = web.AppKey("gate", asyncio.Event)
routes = web.RouteTableDef()


@routes.get("/notes")
async def listed(request: web.Request) -> web.Response:
    return web.json_response(request.app[NOTES])


@routes.get("/mine")
async def mine(request: web.Request) -> web.Response:
    return web.json_response([note for note in request.app[NOTES] if "mine" in note])


@routes.get("/slow")
async def slow(request: web.Request) -> web.Response:
    await request.app[GATE].wait()
    return web.Response(text="done")


@routes.get("/broken")
async def broken(request: web.Request) -> web.Response:
    raise RuntimeError(f"secret of {request.path}")


def create_app(gate: asyncio.Event) -> web.Application:
    app = web.Application()
    app[NOTES], app[GATE] = ["mine", "yours"], gate
    app.add_routes(routes)
    return app
