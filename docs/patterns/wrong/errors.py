# Circulates, and is wrong: ../errors.md says how. Not for copying.

from aiohttp import web


@web.middleware
async def error_middleware(request, handler):
    try:
        return await handler(request)
    except web.HTTPException as error:
        return web.json_response({"error": error.reason}, status=error.status)
    except Exception as error:
        return web.json_response({"error": str(error)}, status=500)
