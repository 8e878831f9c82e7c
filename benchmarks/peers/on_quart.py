"""Quart: `before_request` and `after_request`, pydantic by hand, httpx; on uvicorn."""

import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from functools import wraps
from typing import Any

import httpx
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
    json_logger,
    limiter,
    log_request,
    run_uvicorn,
)
from pydantic import ValidationError
from quart import Quart, Response, g, jsonify, request
from quart.typing import ResponseReturnValue

Handler = Callable[..., Awaitable[ResponseReturnValue]]
PATH, RATE_PATH = MESSAGES.replace("{", "<").replace("}", ">"), RATES.replace("{", "<")[:-1] + ">"
app = Quart(__name__)
logger, rooms, semaphore = json_logger(), Rooms(), limiter()


@app.while_serving
async def lifespan() -> AsyncGenerator[None, None]:
    async with httpx.AsyncClient() as app.client:
        yield


@app.before_request
async def begin() -> ResponseReturnValue | None:
    g.started, g.lent = time.perf_counter(), False
    g.id = request.headers.get("X-Request-ID") or str(uuid.uuid4())
    if semaphore.locked():
        return {"error": "Service Unavailable"}, 503
    await semaphore.acquire()
    g.lent = True
    return None


@app.after_request
async def end(response: Response) -> Response:
    response.headers["X-Request-ID"] = g.id
    log_request(logger, g.id, request.method, request.path, response.status_code, g.started)
    return response


@app.teardown_request
async def release(_: BaseException | None) -> None:
    if g.pop("lent", False):
        semaphore.release()


@app.errorhandler(ValidationError)
async def invalid(error: ValidationError) -> ResponseReturnValue:
    return jsonify(error=error.errors(include_url=False, include_input=False)), 422


def protected(scope: str) -> Callable[[Handler], Handler]:
    def decorator(handler: Handler) -> Handler:
        @wraps(handler)
        async def decorated(*args: Any, **kwargs: Any) -> ResponseReturnValue:
            try:
                g.claims = claims_of(request.headers.get("Authorization", ""), scope)
            except BadTokenError:
                return {"error": "Unauthorized"}, 401
            return await handler(*args, **kwargs)

        return decorated

    return decorator


@app.post(PATH)
@protected("rooms:write")
async def send(room: str) -> ResponseReturnValue:
    new = NewMessage.model_validate(await request.get_json())
    return rooms.send(room, g.claims["sub"], new).model_dump(mode="json"), 201


@app.get(PATH)
@protected("rooms:read")
async def page(room: str) -> ResponseReturnValue:
    query = Page.model_validate(request.args.to_dict())
    return rooms.page(room, query.limit, query.after).model_dump(mode="json")


@app.get(RATE_PATH)
@protected("rates:read")
async def rate(currency: str) -> ResponseReturnValue:
    response = await app.client.get(f"{UPSTREAM}/rates/{currency}")
    return Rate.model_validate(response.json()).model_dump(mode="json")


if __name__ == "__main__":
    run_uvicorn(app)
