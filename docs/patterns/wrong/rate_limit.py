# Circulates, and is wrong: ../rate_limit.md says how. Not for copying.

import asyncio
from collections import defaultdict

from aiohttp import web

counters = defaultdict(int)


async def load(key):
    await asyncio.sleep(0)  # a store that is somewhere else
    return counters[key]


async def save(key, count):
    await asyncio.sleep(0)
    counters[key] = count


@web.middleware
async def rate_limit(request, handler):
    count = await load(request.remote)
    if count >= 5:
        raise web.HTTPTooManyRequests()
    await save(request.remote, count + 1)
    return await handler(request)
