# Circulates, and is wrong: ../request_parts.md says how. Not for copying.

from aiohttp import web


async def search(request):
    limit = int(request.query.get("limit", 10))
    day = request.query["day"]
    return web.json_response({"limit": limit, "day": day})
