# Circulates, and is wrong: ../typed_handlers.md says how. Not for copying.

from aiohttp import web
from pydantic import BaseModel, ValidationError


class User(BaseModel):
    name: str
    password: str


async def create(request):
    try:
        user = User(**await request.json())
    except ValidationError as error:
        return web.json_response({"error": str(error)}, status=400)
    return web.json_response({"name": user.name}, status=201)
