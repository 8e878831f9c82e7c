"""aiohttp's own chat: a plain loop of `await ws.send_str()`, which one stalled client stops."""

from aiohttp import web
from parts import PORT, NewMessage, Rooms
from pydantic import TypeAdapter

SOCKETS = web.AppKey("sockets", set[web.WebSocketResponse])
ROOMS = web.AppKey("rooms", Rooms)
INCOMING = TypeAdapter(dict[str, str])


async def chat(request: web.Request) -> web.WebSocketResponse:
    ws, sockets = web.WebSocketResponse(), request.app[SOCKETS]
    await ws.prepare(request)
    sockets.add(ws)
    try:
        async for message in ws:
            new = NewMessage(text=INCOMING.validate_json(message.data)["text"])
            sent = request.app[ROOMS].send("lobby", "bench", new)
            text = '{"type":"message",' + sent.model_dump_json()[1:]
            for each in tuple(sockets):
                await each.send_str(text)
    finally:
        sockets.discard(ws)
    return ws


app = web.Application()
app[SOCKETS], app[ROOMS] = set(), Rooms()
app.router.add_get("/api/v1/rooms/lobby/ws", chat)

if __name__ == "__main__":
    web.run_app(app, host="127.0.0.1", port=PORT, access_log=None, print=None)
