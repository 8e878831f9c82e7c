# Circulates, and is wrong: ../downloads.md says how. Not for copying.

from aiohttp import web

ROWS = web.AppKey("rows", object)


async def export(request):
    response = web.StreamResponse(headers={"Content-Disposition": "attachment; filename=rows.csv"})
    await response.prepare(request)
    async for row in request.app[ROWS]():
        await response.write(row)
    await response.write_eof()
    return response
