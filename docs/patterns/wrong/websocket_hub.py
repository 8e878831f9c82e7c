# Circulates, and is wrong: ../websocket_hub.md says how. Not for copying.

import weakref

from aiohttp import web

SOCKETS = web.AppKey("sockets", weakref.WeakSet)


async def chat(request):
    ws = web.WebSocketResponse()
    await ws.prepare(request)
    request.app[SOCKETS].add(ws)
    async for message in ws:
        await broadcast(request.app, message.data)
    return ws


async def broadcast(app, text):
    for ws in set(app[SOCKETS]):
        if not ws.closed:
            await ws.send_str(text)


def create_app():
    app = web.Application()
    app[SOCKETS] = weakref.WeakSet()
    app.router.add_get("/chat", chat)
    return app
