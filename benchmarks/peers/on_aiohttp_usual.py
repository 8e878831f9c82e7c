"""The aiohttp stack as usually written: four middlewares, `request.json()`, `json_response`."""

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator

from aiohttp import ClientSession, web
from aiohttp.typedefs import Handler
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

SESSION = web.AppKey("session", ClientSession)
ROOMS = web.AppKey("rooms", Rooms)
LIMIT = web.AppKey("limit", asyncio.Semaphore)
logger = json_logger()


@web.middleware
async def log(request: web.Request, handler: Handler) -> web.StreamResponse:
    started = time.perf_counter()
    request["id"] = request.headers.get("X-Request-ID") or str(uuid.uuid4())
    response = await handler(request)
    response.headers["X-Request-ID"] = request["id"]
    log_request(logger, request["id"], request.method, request.path, response.status, started)
    return response


@web.middleware
async def errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as error:
        return web.json_response({"error": error.reason}, status=error.status)
    except BadTokenError:
        return web.json_response({"error": "Unauthorized"}, status=401)
    except ValidationError as error:
        return web.json_response(
            {"error": error.errors(include_url=False, include_input=False)}, status=422
        )
    except ValueError:
        return web.json_response({"error": "Bad Request"}, status=400)


@web.middleware
async def limit(request: web.Request, handler: Handler) -> web.StreamResponse:
    semaphore = request.app[LIMIT]
    if semaphore.locked():
        raise web.HTTPServiceUnavailable
    async with semaphore:
        return await handler(request)


@web.middleware
async def auth(request: web.Request, handler: Handler) -> web.StreamResponse:
    scope = {"send": "rooms:write", "page": "rooms:read", "rate": "rates:read"}
    name = request.match_info.handler.__name__
    request["claims"] = claims_of(request.headers.get("Authorization", ""), scope[name])
    return await handler(request)


async def send(request: web.Request) -> web.Response:
    new = NewMessage.model_validate(await request.json())
    room, author = request.match_info["room"], request["claims"]["sub"]
    message = request.app[ROOMS].send(room, author, new)
    return web.json_response(message.model_dump(mode="json"), status=201)


async def page(request: web.Request) -> web.Response:
    query = Page.model_validate(dict(request.query))
    found = request.app[ROOMS].page(request.match_info["room"], query.limit, query.after)
    return web.json_response(found.model_dump(mode="json"))


async def rate(request: web.Request) -> web.Response:
    url = f"{UPSTREAM}/rates/{request.match_info['currency']}"
    async with request.app[SESSION].get(url) as response:
        found = Rate.model_validate(await response.json())
    return web.json_response(found.model_dump(mode="json"))


async def session(app: web.Application) -> AsyncGenerator[None]:
    app[SESSION] = ClientSession()
    yield
    await app[SESSION].close()


app = web.Application(middlewares=[log, errors, limit, auth])
app[ROOMS], app[LIMIT] = Rooms(), limiter()
app.cleanup_ctx.append(session)
app.add_routes([web.post(MESSAGES, send), web.get(MESSAGES, page), web.get(RATES, rate)])

if __name__ == "__main__":
    web.run_app(app, host="127.0.0.1", port=PORT, access_log=None, print=None)
