# Circulates, and is wrong: ../slow_clients.md says how. Not for copying.

import asyncio

from aiohttp import web


@web.middleware
async def timeout(request, handler):
    async with asyncio.timeout(0.1):
        return await handler(request)
