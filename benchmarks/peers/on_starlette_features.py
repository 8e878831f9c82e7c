"""Starlette with our own tricks, and with the features that the service has beyond the check.

Metrics by route, trace context, security headers, and the same members in the line of log. What is
missing still: the adaptive limit, the drain, problem documents, the broker.
"""

import os
import re
import time
from datetime import UTC, datetime
from functools import cache

from on_starlette_tricks import STDOUT, Limit, app
from parts import run_uvicorn
from prometheus_client import Counter, Histogram
from pydantic_core import to_json
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

TRACEPARENT = re.compile(rb"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'; base-uri 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
]
LABELS = ["method", "route", "status"]
requests = Counter("http_requests", "Requests answered.", LABELS)
seconds = Histogram("http_request_duration_seconds", "Time until answered.", LABELS)


@cache
def series(method: str, route: str, status: int) -> tuple[Counter, Histogram]:
    labels = (method, route, str(status))
    return requests.labels(*labels), seconds.labels(*labels)


class RequestLog:
    """The id of a request and its trace, its headers, its metrics, its line."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status, size, request_id, trace = time.perf_counter(), 500, 0, None, None
        for name, value in scope["headers"]:
            if name == b"x-request-id":
                request_id = value
            elif name == b"traceparent":
                trace = TRACEPARENT.fullmatch(value)
        request_id = request_id or os.urandom(16).hex().encode()
        trace_id = trace[1] if trace else os.urandom(16).hex()

        async def identified(message: Message) -> None:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] += [(b"x-request-id", request_id), *HEADERS]
            else:
                size += len(message.get("body", b""))
            await send(message)

        try:
            await self.app(scope, receive, identified)
        finally:
            took = time.perf_counter() - started
            route = getattr(scope.get("route"), "path", "unmatched")
            counter, histogram = series(scope["method"], route, status)
            counter.inc()
            histogram.observe(took)
            line = {
                "ts": datetime.now(UTC),
                "level": "info",
                "msg": "request",
                "method": scope["method"],
                "route": route,
                "path": scope["path"],
                "status": status,
                "duration_ms": round(took * 1000, 2),
                "bytes": size,
                "client": scope["client"][0],
                "request_id": request_id,
                "trace_id": trace_id,
                "sub": scope.get("state", {}).get("sub"),
            }
            os.write(STDOUT, to_json(line) + b"\n")


app.user_middleware[:] = [Middleware(RequestLog), Middleware(Limit)]

if __name__ == "__main__":
    run_uvicorn(app)
