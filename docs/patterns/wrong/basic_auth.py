# Circulates, and is wrong: ../basic_auth.md says how. Not for copying.

import base64

from aiohttp import web

USERS = {"admin": "pass:word"}


@web.middleware
async def basic_auth(request, handler):
    header = request.headers.get("Authorization")
    if header is None:
        raise web.HTTPUnauthorized(headers={"WWW-Authenticate": "Basic"})
    user, password = base64.b64decode(header.split(" ")[1]).decode().split(":")
    if USERS.get(user) == password:
        return await handler(request)
    raise web.HTTPUnauthorized(headers={"WWW-Authenticate": "Basic"})
