"""Sanic on its own server: middlewares, the decorator `protected` of its guide, httpx."""

import time
import uuid
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any

import httpx
from parts import (
    MESSAGES,
    PORT,
    RATES,
    UPSTREAM,
    BadTokenError,
    NewMessage,
    Page,
    Rate,
    Rooms,
    claims_of,
    json_logger,
    limiter,
    log_request,
)
from pydantic import ValidationError
from sanic import HTTPResponse, Request, Sanic, json

Handler = Callable[..., Awaitable[HTTPResponse]]
PATH, RATE_PATH = MESSAGES.replace("{", "<").replace("}", ">"), RATES.replace("{", "<")[:-1] + ">"
app = Sanic("peer")
app.config.MOTD = False
logger, rooms = json_logger(), Rooms()


@app.before_server_start
async def start(app: Sanic) -> None:
    app.ctx.client, app.ctx.semaphore = httpx.AsyncClient(), limiter()


@app.after_server_stop
async def stop(app: Sanic) -> None:
    await app.ctx.client.aclose()


@app.on_request
async def begin(request: Request) -> HTTPResponse | None:
    request.ctx.started, request.ctx.lent = time.perf_counter(), False
    request.ctx.id = request.headers.get("x-request-id") or str(uuid.uuid4())
    if app.ctx.semaphore.locked():
        return json({"error": "Service Unavailable"}, 503)
    await app.ctx.semaphore.acquire()
    request.ctx.lent = True
    return None


@app.on_response
async def end(request: Request, response: HTTPResponse) -> None:
    if request.ctx.lent:
        app.ctx.semaphore.release()
    response.headers["x-request-id"] = request.ctx.id
    log_request(
        logger,
        request.ctx.id,
        request.method,
        request.path,
        response.status,
        request.ctx.started,
    )


@app.exception(ValidationError)
async def invalid(_: Request, error: ValidationError) -> HTTPResponse:
    return json({"error": error.errors(include_url=False, include_input=False)}, 422)


def protected(scope: str) -> Callable[[Handler], Handler]:
    def decorator(handler: Handler) -> Handler:
        @wraps(handler)
        async def decorated(request: Request, *args: Any, **kwargs: Any) -> HTTPResponse:
            try:
                request.ctx.claims = claims_of(request.headers.get("authorization", ""), scope)
            except BadTokenError:
                return json({"error": "Unauthorized"}, 401)
            return await handler(request, *args, **kwargs)

        return decorated

    return decorator


@app.post(PATH)
@protected("rooms:write")
async def send(request: Request, room: str) -> HTTPResponse:
    new = NewMessage.model_validate(request.json)
    message = rooms.send(room, request.ctx.claims["sub"], new)
    return json(message.model_dump(mode="json"), 201)


@app.get(PATH)
@protected("rooms:read")
async def page(request: Request, room: str) -> HTTPResponse:
    query = Page.model_validate(dict(request.query_args))
    return json(rooms.page(room, query.limit, query.after).model_dump(mode="json"))


@app.get(RATE_PATH)
@protected("rates:read")
async def rate(_: Request, currency: str) -> HTTPResponse:
    response = await app.ctx.client.get(f"{UPSTREAM}/rates/{currency}")
    return json(Rate.model_validate(response.json()).model_dump(mode="json"))


if __name__ == "__main__":
    app.run(host="127.0.0.1", port=PORT, single_process=True, access_log=False)
