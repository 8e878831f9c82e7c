"""Starlette's chat on uvicorn: a plain loop of `await ws.send_text()`.

python chat_starlette.py {websockets,websockets-sansio,wsproto}
"""

import sys

from parts import NewMessage, Rooms, run_uvicorn
from pydantic import TypeAdapter
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

INCOMING = TypeAdapter(dict[str, str])
sockets: set[WebSocket] = set()
rooms = Rooms()


async def chat(ws: WebSocket) -> None:
    await ws.accept()
    sockets.add(ws)
    try:
        async for text in ws.iter_text():
            new = NewMessage(text=INCOMING.validate_json(text)["text"])
            sent = '{"type":"message",' + rooms.send("lobby", "bench", new).model_dump_json()[1:]
            for each in tuple(sockets):
                await each.send_text(sent)
    finally:
        sockets.discard(ws)


app = Starlette(routes=[WebSocketRoute("/api/v1/rooms/lobby/ws", chat)])

if __name__ == "__main__":
    run_uvicorn(app, ws=sys.argv[1], ws_per_message_deflate=False)
