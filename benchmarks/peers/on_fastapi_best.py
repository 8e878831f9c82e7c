"""FastAPI at its best: plain ASGI middlewares, `async def` dependencies, uvloop and httptools."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import httpx
from asgi import Limit, RequestLog
from fastapi import FastAPI, HTTPException, Query, Request, Security
from fastapi.security import OAuth2PasswordBearer, SecurityScopes
from parts import (
    MESSAGES,
    RATES,
    UPSTREAM,
    BadTokenError,
    Message,
    Messages,
    NewMessage,
    Page,
    Rate,
    Rooms,
    claims_of,
    run_uvicorn,
)
from starlette.middleware import Middleware


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with httpx.AsyncClient() as app.state.client:
        yield


app = FastAPI(lifespan=lifespan, middleware=[Middleware(RequestLog), Middleware(Limit)])
oauth2 = OAuth2PasswordBearer(tokenUrl="/token")
rooms = Rooms()


async def current_user(
    scopes: SecurityScopes, token: Annotated[str, Security(oauth2)]
) -> dict[str, Any]:
    try:
        return claims_of(f"Bearer {token}", *scopes.scopes)
    except BadTokenError:
        raise HTTPException(401, headers={"WWW-Authenticate": "Bearer"}) from None


@app.post(MESSAGES, status_code=201)
async def send(
    room: str,
    new: NewMessage,
    user: Annotated[dict[str, Any], Security(current_user, scopes=["rooms:write"])],
) -> Message:
    return rooms.send(room, user["sub"], new)


@app.get(MESSAGES, dependencies=[Security(current_user, scopes=["rooms:read"])])
async def page(room: str, query: Annotated[Page, Query()]) -> Messages:
    return rooms.page(room, query.limit, query.after)


@app.get(RATES, dependencies=[Security(current_user, scopes=["rates:read"])])
async def rate(currency: str, request: Request) -> Rate:
    response = await request.app.state.client.get(f"{UPSTREAM}/rates/{currency}")
    return Rate.model_validate(response.json())


if __name__ == "__main__":
    run_uvicorn(app)
