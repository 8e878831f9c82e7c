"""Notes, as class-based views: an application that was there before any pattern."""

import asyncio

from aiohttp import web

NOTES = web.AppKey("notes", list[str])
GATE = web.AppKey("gate", asyncio.Event)


class Notes(web.View):
    async def get(self) -> web.Response:
        return web.json_response(self.request.app[NOTES])


class Mine(web.View):
    async def get(self) -> web.Response:
        return web.json_response([note for note in self.request.app[NOTES] if "mine" in note])


class Slow(web.View):
    async def get(self) -> web.Response:
        await self.request.app[GATE].wait()
        return web.Response(text="done")


class Broken(web.View):
    async def get(self) -> web.Response:
        raise RuntimeError(f"secret of {self.request.path}")


def create_app(gate: asyncio.Event, notes: type[Notes] = Notes) -> web.Application:
    app = web.Application()
    app[NOTES], app[GATE] = ["mine", "yours"], gate
    app.router.add_view("/notes", notes)
    app.router.add_view("/mine", Mine)
    app.router.add_view("/slow", Slow)
    app.router.add_view("/broken", Broken)
    return app
