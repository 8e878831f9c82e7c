# Circulates, and is wrong: ../uploads.md says how. Not for copying.

import os

from aiohttp import web

FOLDER = web.AppKey("folder", str)


async def upload(request):
    reader = await request.multipart()
    field = await reader.next()
    size = 0
    with open(os.path.join(request.app[FOLDER], field.filename), "wb") as file:
        while chunk := await field.read_chunk():
            size += len(chunk)
            file.write(chunk)
    return web.Response(text=f"{field.filename}: {size} bytes")
