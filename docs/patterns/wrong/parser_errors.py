# Circulates, and is wrong: ../parser_errors.md says how. Not for copying.

from aiohttp import web


@web.middleware
async def errors(request, handler):
    try:
        return await handler(request)
    except web.HTTPException as error:
        return web.json_response({"title": error.reason}, status=error.status)


def create_app():
    return web.Application(middlewares=[errors])
