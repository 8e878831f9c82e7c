"""CORS: which other origins' pages may call, answered for errors and unknown routes alike.

Done in handlers, or by registering OPTIONS routes, the headers are missing from 401, 404 and 500,
and a browser then reports "CORS error" in place of the real one.

Wiring::

    app.on_response_prepare.append(cors_headers({"https://app.example"}))
    app.middlewares.append(cors_preflight({"https://app.example"}))

Needs: aiohttp>=3.14.4
Order: the preflight outside auth, as browsers send it without credentials; inside the log.
Not: cookies (`Access-Control-Allow-Credentials` is never sent) and never `*`; and it protects no
    server: another origin's request is still carried out, its page just may not read the answer.
"""

from collections.abc import Awaitable, Callable, Collection

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

__all__ = ["cors_headers", "cors_preflight"]

METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE"
HEADERS = "Authorization, Content-Type, Last-Event-ID, X-Request-ID, traceparent"
EXPOSED = "Location, Retry-After, WWW-Authenticate, X-Request-ID"
MAX_AGE = "7200"  # seconds; the longest that Chromium keeps an answer


def cors_headers(
    origins: Collection[str],
) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    """`on_response_prepare` callback: let pages of these origins read the answer, errors too.

    An origin is `scheme://host[:port]`, compared as it is. `Vary: Origin` is sent even when the
    origin is not allowed, or a shared cache would hand one origin's answer to another.
    """

    async def allow(request: web.Request, response: web.StreamResponse) -> None:
        response.headers.add(hdrs.VARY, hdrs.ORIGIN)
        origin = request.headers.get(hdrs.ORIGIN)
        if origin in origins and origin is not None:
            response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = origin
            response.headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = EXPOSED
            if response.headers.get("Cross-Origin-Resource-Policy") == "same-origin":
                response.headers["Cross-Origin-Resource-Policy"] = "cross-origin"

    return allow


def cors_preflight(origins: Collection[str]) -> Middleware:
    """Answer a preflight (Fetch standard, section 3.2.2) of an allowed origin with a 204.

    Every other request, an ordinary `OPTIONS` included, goes on to its route.
    """

    async def allowed() -> web.StreamResponse:
        return web.Response(
            status=204,
            headers={
                hdrs.ACCESS_CONTROL_ALLOW_METHODS: METHODS,
                hdrs.ACCESS_CONTROL_ALLOW_HEADERS: HEADERS,
                hdrs.ACCESS_CONTROL_MAX_AGE: MAX_AGE,
            },
        )

    @web.middleware
    def preflight(request: web.Request, handler: Handler) -> Awaitable[web.StreamResponse]:
        asked = (
            request.method == hdrs.METH_OPTIONS
            and hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers
            and request.headers.get(hdrs.ORIGIN) in origins
        )
        # No coroutine of its own for the rest: under a stream it would stay for hours.
        return allowed() if asked else handler(request)

    return preflight
