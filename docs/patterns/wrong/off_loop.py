# Circulates, and is wrong: ../off_loop.md says how. Not for copying.

import time

from aiohttp import web


async def report(request):
    time.sleep(0.3)  # a driver, a subprocess, an image library
    return web.Response(text="report")
