"""Starlette with our own tricks: what is won by the parts, and what by the framework.

The cache of verified tokens and the verifier are the generated service's own files. Each request is
logged by one `to_json` and one `os.write`, ids come from `os.urandom`, the limiter is a counter,
bodies go from bytes to model to bytes, and the client is aiohttp's. It does no more than the other
peers: no metrics, no trace context, no security headers, no drain.
"""

import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from importlib import import_module
from typing import Any

from aiohttp import ClientSession
from parts import (
    AUDIENCE,
    CONCURRENCY,
    ISSUER,
    MESSAGES,
    RATES,
    SECRET,
    UPSTREAM,
    NewMessage,
    Page,
    Rate,
    Rooms,
    run_uvicorn,
)
from pydantic import ValidationError
from pydantic_core import to_json
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

sys.path.insert(0, os.environ["PEER_SERVICE"])
PATTERNS = "my_service.patterns"
cache = import_module(f"{PATTERNS}.token_cache").TokenCache(leeway=10)
jwt_verify = import_module(f"{PATTERNS}.jwt_verify")
verify = jwt_verify.hs256_verifier(
    SECRET.encode(), jwt_verify.TokenPolicy(issuer=ISSUER, audience=AUDIENCE)
)
rooms = Rooms()
STDOUT = sys.stdout.fileno()
UNAUTHORIZED = Response(b'{"detail":"Unauthorized"}', 401, {"WWW-Authenticate": "Bearer"})
BUSY = Response(b'{"detail":"Service Unavailable"}', 503, {"Retry-After": "1"})


class RequestLog:
    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status, request_id = time.perf_counter(), 500, None
        for name, value in scope["headers"]:
            if name == b"x-request-id":
                request_id = value
        request_id = request_id or os.urandom(16).hex().encode()

        async def identified(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"].append((b"x-request-id", request_id))
            await send(message)

        try:
            await self.app(scope, receive, identified)
        finally:
            line = {
                "ts": datetime.now(UTC),
                "level": "info",
                "msg": "request",
                "request_id": request_id,
                "method": scope["method"],
                "path": scope["path"],
                "status": status,
                "duration_ms": round((time.perf_counter() - started) * 1000, 2),
            }
            os.write(STDOUT, to_json(line) + b"\n")


class Limit:
    def __init__(self, app: ASGIApp) -> None:
        self.app, self.running = app, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.running >= CONCURRENCY:
            await BUSY(scope, receive, send)
            return
        self.running += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self.running -= 1


def protected(scope: str) -> Callable[[Any], Callable[[Request], Awaitable[Response]]]:
    def decorate(handler: Any) -> Callable[[Request], Awaitable[Response]]:
        async def call(request: Request) -> Response:
            token = request.headers.get("authorization", "").removeprefix("Bearer ")
            claims = cache.get(token)
            if claims is None:
                try:
                    payload = await verify(token)
                except ValueError:
                    return UNAUTHORIZED
                claims = payload["sub"], frozenset(str(payload.get("scope", "")).split())
                cache.put(token, claims, payload["exp"])
            request.state.sub = claims[0]
            if scope not in claims[1]:
                return Response(b'{"detail":"Forbidden"}', 403)
            return await handler(request, claims[0])

        return call

    return decorate


def answer(model: object, status: int = 200) -> Response:
    return Response(to_json(model), status, media_type="application/json")


async def invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, ValidationError)
    return answer({"detail": error.errors(include_url=False, include_input=False)}, 422)


@protected("rooms:write")
async def send(request: Request, author: str) -> Response:
    new = NewMessage.model_validate_json(await request.body())
    return answer(rooms.send(request.path_params["room"], author, new), 201)


@protected("rooms:read")
async def page(request: Request, _: str) -> Response:
    query = Page.model_validate(dict(request.query_params))
    return answer(rooms.page(request.path_params["room"], query.limit, query.after))


@protected("rates:read")
async def rate(request: Request, _: str) -> Response:
    url = f"{UPSTREAM}/rates/{request.path_params['currency']}"
    async with request.state.session.get(url) as response:
        return answer(Rate.model_validate_json(await response.read()))


@asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[dict[str, ClientSession]]:
    async with ClientSession() as session:
        yield {"session": session}


app = Starlette(
    lifespan=lifespan,
    middleware=[Middleware(RequestLog), Middleware(Limit)],
    exception_handlers={ValidationError: invalid},
    routes=[
        Route(MESSAGES, send, methods=["POST"]),
        Route(MESSAGES, page),
        Route(RATES, rate),
    ],
)

if __name__ == "__main__":
    run_uvicorn(app)
