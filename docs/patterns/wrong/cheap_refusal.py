# Circulates, and is wrong: ../cheap_refusal.md says how. Not for copying.

from aiohttp import web


def refuse(request, detail):
    return web.json_response({"error": detail}, status=503, headers={"Retry-After": "5"})
