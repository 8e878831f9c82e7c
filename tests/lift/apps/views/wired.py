"""The same application with patterns from the shelf; no pattern was edited for it."""

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

PREFIX = ""
UPSTREAM = web.AppKey("upstream", str)
STREAMS = web.AppKey("streams", Streams)
HUB = web.AppKey("hub", Hub)


class Note(BaseModel):
    text: str


class Notes(application.Notes):
    """The view that was there, and a method with a mark and a type of its own."""

    get = public(application.Notes.get)

    @scope("notes:write")
    @typed
    async def post(self, note: Body[Note]) -> Reply[Note, Literal[201]]:
        self.request.app[application.NOTES].append(f"{self.request[CLAIMS].sub}: {note.text}")
        return Reply(note, 201)


class Upstream(web.View):
    async def get(self) -> web.Response:
        async with self.request.app[SESSION].get(self.request.app[UPSTREAM]) as answer:
            return web.Response(text=await answer.text())


@stream
class News(web.View):
    async def get(self) -> web.StreamResponse:
        return await self.request.app[STREAMS].serve(self.request, subscribe_to_news)


class Chat(web.View):
    @stream
    async def get(self) -> web.WebSocketResponse:
        hub = self.request.app[HUB]
        return await hub.serve(self.request, subscribe_to_nothing, self.echo)

    async def echo(self, client: Client, text: str) -> None:
        client.send(text.encode())


def create_app(
    gate: asyncio.Event, write: Callable[[bytes], object], secret: bytes, upstream_url: str
) -> tuple[web.Application, Drain]:
    app = application.create_app(gate, Notes)
    streams, hub = Streams(), Hub()
    drain = Drain(delay=0, timeout=5, streams=[streams.drain, hub.drain])
    policy = TokenPolicy(issuer="issuer", audience="notes")
    app[STREAMS], app[HUB], app[UPSTREAM] = streams, hub, upstream_url
    app[READ_BODY] = web.Request.read
    app.middlewares.extend(
        [
            backpressure(Permits(FixedLimit(2))),
            drain.count,
            identify,
            request_log(write, fields=lambda request: {"request_id": request_id(request)}),
            errors(request_id=request_id),
            jwt_auth(verify=hs256_verifier(secret, policy), realm="notes"),
        ]
    )
    app.on_response_prepare.extend([send_request_id, drain.close_connections, note_started])
    app.cleanup_ctx.append(client_session(ClientLimits(), headers=outbound_headers))
    app.router.add_view("/upstream", Upstream)
    app.router.add_view("/news", News)
    app.router.add_view("/chat", Chat)
    return app, drain
