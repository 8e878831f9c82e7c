# Circulates, and is wrong: ../request_id.md says how. Not for copying.

import uuid

from aiohttp import web


@web.middleware
async def request_id(request, handler):
    id = request.headers.get("X-Request-ID") or str(uuid.uuid4())
    response = await handler(request)
    response.headers["X-Request-ID"] = id
    return response
