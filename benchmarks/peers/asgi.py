"""Plain ASGI middlewares in the usual parts: what the ASGI peers have at their best."""

import time
import uuid

from parts import json_logger, limiter, log_request
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class RequestLog:
    """The id of a request, on its answer and in its one line of log."""

    def __init__(self, app: ASGIApp) -> None:
        self.app, self.logger = app, json_logger()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500
        request_id = Headers(scope=scope).get("X-Request-ID") or str(uuid.uuid4())

        async def identified(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            await send(message)

        try:
            await self.app(scope, receive, identified)
        finally:
            log_request(self.logger, request_id, scope["method"], scope["path"], status, started)


class Limit:
    """At most a hundred requests at once, and 503 for the others."""

    def __init__(self, app: ASGIApp) -> None:
        self.app, self.semaphore = app, limiter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
        elif self.semaphore.locked():
            await JSONResponse({"detail": "Service Unavailable"}, 503)(scope, receive, send)
        else:
            async with self.semaphore:
                await self.app(scope, receive, send)
