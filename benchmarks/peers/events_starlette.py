"""Starlette's event streams: a queue a stream, in a StreamingResponse or in sse-starlette.

python events_starlette.py {streaming,sse-starlette}
"""

import asyncio
import sys
from collections.abc import AsyncGenerator

from parts import MESSAGES, Message, NewMessage, Rooms, run_uvicorn
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

queues: set[asyncio.Queue[Message]] = set()
rooms = Rooms()


async def messages() -> AsyncGenerator[Message, None]:
    queue: asyncio.Queue[Message] = asyncio.Queue(256)
    queues.add(queue)
    try:
        while True:
            yield await queue.get()
    finally:
        queues.discard(queue)


async def chunks() -> AsyncGenerator[str, None]:
    yield ": open\n\n"
    async for message in messages():
        yield f"id: {message.id}\nevent: message\ndata: {message.model_dump_json()}\n\n"


async def events() -> AsyncGenerator[ServerSentEvent, None]:
    yield ServerSentEvent(comment="open")
    async for message in messages():
        yield ServerSentEvent(message.model_dump_json(), id=message.id, event="message")


async def listen(_: Request) -> Response:
    if sys.argv[1] == "sse-starlette":
        return EventSourceResponse(events())
    return StreamingResponse(chunks(), media_type="text/event-stream")


async def send(request: Request) -> Response:
    new = NewMessage.model_validate_json(await request.body())
    message = rooms.send(request.path_params["room"], "bench", new)
    for queue in tuple(queues):
        queue.put_nowait(message)
    return Response(message.model_dump_json(), 201, media_type="application/json")


app = Starlette(
    routes=[
        Route(MESSAGES, send, methods=["POST"]),
        Route("/api/v1/rooms/lobby/events", listen),
    ]
)

if __name__ == "__main__":
    run_uvicorn(app)
