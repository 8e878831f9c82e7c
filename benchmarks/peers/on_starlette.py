"""Starlette: plain ASGI middlewares, its AuthenticationMiddleware, pydantic by hand, httpx."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypedDict

import httpx
from asgi import Limit, RequestLog
from parts import (
    MESSAGES,
    RATES,
    UPSTREAM,
    BadTokenError,
    NewMessage,
    Page,
    Rate,
    Rooms,
    claims_of,
    run_uvicorn,
)
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.authentication import (
    AuthCredentials,
    AuthenticationBackend,
    AuthenticationError,
    SimpleUser,
    requires,
)
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

rooms = Rooms()


class State(TypedDict):
    client: httpx.AsyncClient


@asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[State]:
    async with httpx.AsyncClient() as client:
        yield {"client": client}


class Bearer(AuthenticationBackend):
    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, SimpleUser]:
        try:
            claims = claims_of(conn.headers.get("Authorization", ""))
        except BadTokenError:
            raise AuthenticationError("Invalid token") from None
        return AuthCredentials(claims["scope"].split()), SimpleUser(claims["sub"])


def unauthorized(_: HTTPConnection, error: Exception) -> Response:
    return JSONResponse({"detail": str(error)}, 401, {"WWW-Authenticate": "Bearer"})


async def invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, ValidationError)
    return JSONResponse({"detail": error.errors(include_url=False, include_input=False)}, 422)


@requires("rooms:write")
async def send(request: Request) -> Response:
    new = NewMessage.model_validate_json(await request.body())
    message = rooms.send(request.path_params["room"], request.user.username, new)
    return Response(message.model_dump_json(), 201, media_type="application/json")


@requires("rooms:read")
async def page(request: Request) -> Response:
    query = Page.model_validate(dict(request.query_params))
    found = rooms.page(request.path_params["room"], query.limit, query.after)
    return Response(found.model_dump_json(), media_type="application/json")


@requires("rates:read")
async def rate(request: Request) -> Response:
    client: httpx.AsyncClient = request.state.client
    response = await client.get(f"{UPSTREAM}/rates/{request.path_params['currency']}")
    found = Rate.model_validate_json(response.content)
    return Response(found.model_dump_json(), media_type="application/json")


app = Starlette(
    lifespan=lifespan,
    middleware=[
        Middleware(RequestLog),
        Middleware(Limit),
        Middleware(AuthenticationMiddleware, backend=Bearer(), on_error=unauthorized),
    ],
    exception_handlers={ValidationError: invalid},
    routes=[
        Route(MESSAGES, send, methods=["POST"]),
        Route(MESSAGES, page),
        Route(RATES, rate),
    ],
)

if __name__ == "__main__":
    run_uvicorn(app)
