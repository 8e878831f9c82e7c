# Circulates, and is wrong: ../backpressure.md says how. Not for copying.

import asyncio

from aiohttp import web

semaphore = asyncio.Semaphore(2)


@web.middleware
async def limit(request, handler):
    if semaphore.locked():
        raise web.HTTPServiceUnavailable(headers={"Retry-After": "1"})
    async with semaphore:
        return await handler(request)
