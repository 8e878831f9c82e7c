# Circulates, and is wrong: ../background_tasks.md says how. Not for copying.

import asyncio

from aiohttp import web


SEND = web.AppKey("send", object)


async def order(request):
    asyncio.create_task(request.app[SEND]())
    return web.Response(status=202)
