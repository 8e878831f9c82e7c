# Circulates, and is wrong: ../stream_tickets.md says how. Not for copying.

from aiohttp import web

TOKENS = {"a-token-that-is-good-for-an-hour"}


async def stream(request):
    if request.query.get("token") not in TOKENS:
        raise web.HTTPUnauthorized()
    return web.Response(text="the stream")
