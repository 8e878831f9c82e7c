# Circulates, and is wrong: ../trusted_proxies.md says how. Not for copying.

from aiohttp import web


def client_ip(request):
    forwarded = request.headers.get("X-Forwarded-For")
    return forwarded.split(",")[0].strip() if forwarded else request.remote


async def who(request):
    return web.Response(text=client_ip(request))
