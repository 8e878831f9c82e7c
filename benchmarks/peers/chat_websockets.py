"""`websockets` and its `broadcast()`, as in its documentation; no compression.

python chat_websockets.py {asyncio,uvloop}
"""

import asyncio
import sys
from importlib import import_module

from parts import PORT, NewMessage, Rooms
from pydantic import TypeAdapter
from websockets.asyncio.server import ServerConnection, broadcast, serve

INCOMING = TypeAdapter(dict[str, str])
CONNECTIONS: set[ServerConnection] = set()
rooms = Rooms()


async def chat(connection: ServerConnection) -> None:
    CONNECTIONS.add(connection)
    try:
        async for text in connection:
            new = NewMessage(text=INCOMING.validate_json(text)["text"])
            message = rooms.send("lobby", "bench", new)
            broadcast(CONNECTIONS, '{"type":"message",' + message.model_dump_json()[1:])
    finally:
        CONNECTIONS.discard(connection)


async def main() -> None:
    async with serve(chat, "127.0.0.1", PORT, compression=None) as server:
        await server.serve_forever()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=import_module(sys.argv[1]).new_event_loop) as runner:
        runner.run(main())
