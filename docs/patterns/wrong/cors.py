# Circulates, and is wrong: ../cors.md says how. Not for copying.

from aiohttp import web


@web.middleware
async def cors(request, handler):
    response = await handler(request)
    response.headers["Access-Control-Allow-Origin"] = "*"
    response.headers["Access-Control-Allow-Headers"] = "Authorization"
    return response
