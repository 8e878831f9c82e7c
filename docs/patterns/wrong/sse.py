# Circulates, and is wrong: ../sse.md says how. Not for copying.

import asyncio

from aiohttp import web

QUEUES = web.AppKey("queues", set)


async def events(request):
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    queue = asyncio.Queue()
    request.app[QUEUES].add(queue)
    try:
        while True:
            message = await queue.get()
            await response.write(f"data: {message}\n\n".encode())
    finally:
        request.app[QUEUES].discard(queue)


def create_app():
    app = web.Application()
    app[QUEUES] = set()
    app.router.add_get("/events", events)
    return app
