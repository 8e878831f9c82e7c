"""Errors: every error the application can emit as one shape, `application/problem+json` (RFC 9457).

Left alone, aiohttp answers errors in three shapes of text, a client timeout that escapes a handler
becomes an empty 504, and an error raised after a stream has begun is written into its body.

Wiring::

    app.on_response_prepare.append(note_started)
    app.middlewares.append(errors())

Needs: aiohttp>=3.14.4, pydantic-core>=2.41
Order: inside the log and the metrics, so that they see final answers; outside auth and handlers.
Not: a catalogue of problem types. `type` is `about:blank` until an error brings its own: any
    HTTPException may carry `problem`, a mapping of members to merge (`errors`, `type`, ...).
"""

import logging
from collections.abc import Callable, Mapping
from http import HTTPStatus

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from pydantic_core import to_json

__all__ = ["errors", "note_started", "problem_document"]

logger = logging.getLogger(__name__)

STARTED = web.RequestKey("started", web.StreamResponse)
CONTENT_TYPE = "application/problem+json"
# RFC 9457 asks for a body that speaks of this answer alone, so its headers are written anew.
OWN_HEADERS = frozenset({"content-type", "content-length"})


async def note_started(request: web.Request, response: web.StreamResponse) -> None:
    """`on_response_prepare` callback: from here on a second answer would corrupt the first."""
    request[STARTED] = response


def problem_document(error: web.HTTPException) -> dict[str, object]:
    """The members of RFC 9457, section 3.1, for an error, and those that it brings itself."""
    title = _title(error.status)
    text = error.text if error.text != f"{error.status}: {error.reason}" else None
    extra: Mapping[str, object] = getattr(error, "problem", {})
    common = {"type": "about:blank", "title": title, "status": error.status}
    return {**common, "detail": text or title, **extra}


def errors(*, request_id: Callable[[web.Request], str] | None = None) -> Middleware:
    """Turn whatever a handler raises into a problem document.

    HTTP exceptions keep their status and headers (`Allow`, `Retry-After`, `WWW-Authenticate`), and
    their text becomes `detail` where it is not aiohttp's own; below 400 they pass untouched. An
    HTTPException that was returned is treated as if raised. Anything else is an opaque 500, logged
    with its traceback. After an answer has begun the connection is aborted instead, which is how a
    client learns that the body it got is not whole. A client that left is not an error: it ends as
    499, nginx's status for it, which nobody reads but the log. Cancellation passes through.
    """

    @web.middleware
    async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            response = await handler(request)
        except web.HTTPException as error:
            if error.status < 400 and STARTED not in request:
                raise
            return _answer(request, error, request_id)
        except Exception as error:
            gone = request.transport is None or request.transport.is_closing()
            if gone and isinstance(error, ConnectionResetError):
                return request.get(STARTED) or web.Response(status=499)
            logger.exception("unhandled error in %s %s", request.method, _route(request))
            return _answer(request, web.HTTPInternalServerError(), request_id)
        if response.status >= 400 and isinstance(response, web.HTTPException):
            return _answer(request, response, request_id)
        return response

    return problems


def _answer(
    request: web.Request, error: web.HTTPException, request_id: Callable[[web.Request], str] | None
) -> web.StreamResponse:
    started: web.StreamResponse | None = request.get(STARTED)
    if started is not None:
        if request.transport is not None:
            request.transport.abort()
        return started
    problem = problem_document(error)
    problem["instance"] = request.rel_url.raw_path
    if request_id is not None:
        problem["request_id"] = request_id(request)
    headers = error.headers.copy()
    for name in OWN_HEADERS:
        headers.popall(name, None)
    response = web.Response(
        status=error.status,
        body=to_json(problem, fallback=str),
        content_type=CONTENT_TYPE,
        headers=headers,
    )
    if error.keep_alive is False:
        response.force_close()
    return response


def _title(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"


def _route(request: web.Request) -> str:
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else "an unmatched route"
