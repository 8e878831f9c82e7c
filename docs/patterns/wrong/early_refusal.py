# Circulates, and is wrong: ../early_refusal.md says how. Not for copying.

from aiohttp import web


def shed_load(limit):
    in_flight = 0

    @web.middleware
    async def middleware(request, handler):
        nonlocal in_flight
        if in_flight >= limit:
            return web.Response(status=503, headers={"Retry-After": "5"})
        in_flight += 1
        try:
            return await handler(request)
        finally:
            in_flight -= 1

    return middleware
