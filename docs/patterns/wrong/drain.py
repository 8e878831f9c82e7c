# Circulates, and is wrong: ../drain.md says how. Not for copying.

from aiohttp import WSCloseCode, web

SOCKETS = web.AppKey("sockets", set)


async def ticker(request):
    ws = web.WebSocketResponse()
    await ws.prepare(request)
    request.app[SOCKETS].add(ws)
    try:
        while True:
            await ws.send_str("tick " * 20_000)
    finally:
        request.app[SOCKETS].discard(ws)


async def close_sockets(app):
    for ws in set(app[SOCKETS]):
        await ws.close(code=WSCloseCode.GOING_AWAY, message=b"Server shutdown")


def create_app():
    app = web.Application()
    app[SOCKETS] = set()
    app.router.add_get("/ticker", ticker)
    app.on_shutdown.append(close_sockets)
    return app
