# Circulates, and is wrong: ../jwt_auth.md says how. Not for copying.

import jwt
from aiohttp import web

PUBLIC_PATHS = ["/health", "/docs"]
SECRET = "a secret of thirty-two bytes, or more"


@web.middleware
async def auth(request, handler):
    if any(request.path.startswith(path) for path in PUBLIC_PATHS):
        return await handler(request)
    token = request.headers.get("Authorization", "").replace("Bearer ", "")
    try:
        jwt.decode(token, SECRET, algorithms=["HS256"])
    except jwt.InvalidTokenError:
        return web.json_response({"error": "Invalid token"}, status=403)
    return await handler(request)
