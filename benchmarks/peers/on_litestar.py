"""Litestar: its JWTAuth, its pydantic plugin, plain ASGI middlewares, httpx in its state."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated

import httpx
from asgi import Limit, RequestLog
from litestar import Litestar, Request, get, post
from litestar.connection import ASGIConnection
from litestar.datastructures import State
from litestar.exceptions import PermissionDeniedException
from litestar.handlers import BaseRouteHandler
from litestar.params import Parameter
from litestar.security.jwt import JWTAuth, Token
from litestar.types import Guard
from parts import (
    AUDIENCE,
    ISSUER,
    MESSAGES,
    RATES,
    SECRET,
    UPSTREAM,
    Message,
    Messages,
    NewMessage,
    Rate,
    Rooms,
    run_uvicorn,
)

rooms = Rooms()
PATH, RATE_PATH = MESSAGES.replace("{room}", "{room:str}"), RATES.replace("y}", "y:str}")
Authenticated = Request[str, Token, State]


async def retrieve_user(token: Token, _: ASGIConnection) -> str:
    return token.sub


auth = JWTAuth[str](
    retrieve_user_handler=retrieve_user,
    token_secret=SECRET,
    accepted_audiences=[AUDIENCE],
    accepted_issuers=[ISSUER],
    require_claims=["exp", "iat", "sub"],
)


def scope(name: str) -> Guard:
    def guard(connection: ASGIConnection, _: BaseRouteHandler) -> None:
        if name not in connection.auth.extras["scope"].split():
            raise PermissionDeniedException

    return guard


@post(PATH, guards=[scope("rooms:write")])
async def send(room: str, data: NewMessage, request: Authenticated) -> Message:
    return rooms.send(room, request.user, data)


@get(PATH, guards=[scope("rooms:read")])
async def page(
    room: str, limit: Annotated[int, Parameter(ge=1, le=100)] = 50, after: str = ""
) -> Messages:
    return rooms.page(room, limit, after)


@get(RATE_PATH, guards=[scope("rates:read")])
async def rate(currency: str, state: State) -> Rate:
    response = await state.client.get(f"{UPSTREAM}/rates/{currency}")
    return Rate.model_validate_json(response.content)


@asynccontextmanager
async def lifespan(app: Litestar) -> AsyncGenerator[None, None]:
    async with httpx.AsyncClient() as app.state.client:
        yield


app = Litestar(
    [send, page, rate],
    lifespan=[lifespan],
    on_app_init=[auth.on_app_init],
    middleware=[RequestLog, Limit],
    openapi_config=None,
    logging_config=None,
)

if __name__ == "__main__":
    run_uvicorn(app)
