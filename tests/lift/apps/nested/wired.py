"""The same application with patterns from the shelf: auth inside, all others outside."""

import asyncio
from collections.abc import Callable
from typing import Literal

from aiohttp import web
from pydantic import BaseModel

from . import application
from .feeds import subscribe_to_news, subscribe_to_nothing
from .patterns.backpressure import FixedLimit, Permits, backpressure, stream
from .patterns.client_session import SESSION, ClientLimits, client_session
from .patterns.drain import Drain
from .patterns.errors import errors, note_started
from .patterns.jwt_auth import CLAIMS, jwt_auth, public, scope
from .patterns.jwt_verify import TokenPolicy, hs256_verifier
from .patterns.request_id import identify, outbound_headers, request_id, send_request_id
from .patterns.request_log import request_log
from .patterns.request_parts import READ_BODY, Body
from .patterns.sse import Streams
from .patterns.typed_handlers import Reply, typed
from .patterns.websocket_hub import Client, Hub

PREFIX = "/api"
routes = web.RouteTableDef()


class Note(BaseModel):
    text: str


@routes.post("/notes")
@scope("notes:write")
@typed
async def add(request: web.Request, note: Body[Note]) -> Reply[Note, Literal[201]]:
    request.config_dict["notes"].append(f"{request[CLAIMS].sub}: {note.text}")
    return Reply(note, 201)


@routes.get("/upstream")
async def upstream(request: web.Request) -> web.Response:
    async with request.config_dict[SESSION].get(request.app["upstream"]) as answer:
        return web.Response(text=await answer.text())


@routes.get("/news")
@stream
async def news(request: web.Request) -> web.StreamResponse:
    streams: Streams = request.config_dict["streams"]
    return await streams.serve(request, subscribe_to_news)


@routes.get("/chat")
@stream
async def chat(request: web.Request) -> web.WebSocketResponse:
    async def echo(client: Client, text: str) -> None:
        client.send(text.encode())

    hub: Hub = request.config_dict["hub"]
    return await hub.serve(request, subscribe_to_nothing, echo)


def create_app(
    gate: asyncio.Event, write: Callable[[bytes], object], secret: bytes, upstream_url: str
) -> tuple[web.Application, Drain]:
    streams, hub = Streams(), Hub()
    drain = Drain(delay=0, timeout=5, streams=[streams.drain, hub.drain])
    policy = TokenPolicy(issuer="issuer", audience="notes")
    public(application.listed)
    api = application.create_api(gate)
    api["upstream"], api[READ_BODY] = upstream_url, web.Request.read
    api.middlewares.append(jwt_auth(verify=hs256_verifier(secret, policy), realm="notes"))
    api.add_routes(routes)
    app = application.create_app(api)
    app["streams"], app["hub"] = streams, hub
    app.middlewares.extend(
        [
            backpressure(Permits(FixedLimit(2))),
            drain.count,
            identify,
            request_log(write, fields=lambda request: {"request_id": request_id(request)}),
            errors(request_id=request_id),
        ]
    )
    app.on_response_prepare.extend([send_request_id, drain.close_connections, note_started])
    app.cleanup_ctx.append(client_session(ClientLimits(), headers=outbound_headers))
    return app, drain
