"""FastAPI as popular templates write it.

Three BaseHTTPMiddleware layers (`@app.middleware("http")`), the current user as a plain `def`
dependency after OAuth2PasswordBearer, `logging` with JSON, httpx. uvicorn[standard].
"""

import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

import httpx
from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.responses import JSONResponse
from fastapi.security import OAuth2PasswordBearer
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
    json_logger,
    limiter,
    log_request,
    run_uvicorn,
)

Next = Callable[[Request], Awaitable[Response]]


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with httpx.AsyncClient() as app.state.client:
        yield


app = FastAPI(lifespan=lifespan)
oauth2 = OAuth2PasswordBearer(tokenUrl="/token")
logger, rooms, semaphore = json_logger(), Rooms(), limiter()


@app.middleware("http")
async def limit(request: Request, call_next: Next) -> Response:
    if semaphore.locked():
        return JSONResponse({"detail": "Service Unavailable"}, 503)
    async with semaphore:
        return await call_next(request)


@app.middleware("http")
async def log(request: Request, call_next: Next) -> Response:
    started = time.perf_counter()
    response = await call_next(request)
    log_request(
        logger, request.state.id, request.method, request.url.path, response.status_code, started
    )
    return response


@app.middleware("http")
async def identify(request: Request, call_next: Next) -> Response:
    request.state.id = request.headers.get("X-Request-ID") or str(uuid.uuid4())
    response = await call_next(request)
    response.headers["X-Request-ID"] = request.state.id
    return response


def current_user(token: Annotated[str, Depends(oauth2)]) -> dict[str, Any]:
    try:
        return claims_of(f"Bearer {token}")
    except BadTokenError:
        raise HTTPException(401, headers={"WWW-Authenticate": "Bearer"}) from None


User = Annotated[dict[str, Any], Depends(current_user)]


def allowed(user: dict[str, Any], scope: str) -> None:
    if scope not in user["scope"].split():
        raise HTTPException(403)


@app.post(MESSAGES, status_code=201, response_model=Message)
async def send(room: str, new: NewMessage, user: User) -> Any:
    allowed(user, "rooms:write")
    return rooms.send(room, user["sub"], new)


@app.get(MESSAGES, response_model=Messages)
async def page(room: str, user: User, query: Annotated[Page, Query()]) -> Any:
    allowed(user, "rooms:read")
    return rooms.page(room, query.limit, query.after)


@app.get(RATES, response_model=Rate)
async def rate(currency: str, user: User, request: Request) -> Any:
    allowed(user, "rates:read")
    response = await request.app.state.client.get(f"{UPSTREAM}/rates/{currency}")
    return Rate.model_validate(response.json())


if __name__ == "__main__":
    run_uvicorn(app)
