"""Request log: one line a request, also for refused, aborted and streamed ones.

A line written after `await handler(request)` is missing exactly when it is wanted: for raised
errors, cancelled handlers and clients that left. This one is written in `finally`, holds the path
but never the query (tokens travel there), and costs one serialisation and one write.

Wiring::

    app.middlewares.append(request_log(sys.stdout.buffer.write))

Needs: aiohttp>=3.14.4, pydantic-core>=2.41
Order: outside metrics, errors and auth, so that it sees their answers; inside backpressure, because
    logging each refusal in full takes a fifth of the capacity at five times the load.
Not: the parser's own 400s, which no middleware sees. Turn aiohttp's access log off: one is enough.
"""

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from pydantic_core import to_json

__all__ = ["json_line", "request_log"]


def json_line(fields: Mapping[str, object]) -> bytes:
    """One line of JSON; control characters and line ends in values are escaped by it."""
    return to_json(fields) + b"\n"


def request_log(
    write: Callable[[bytes], object],
    *,
    fields: Callable[[web.Request], Mapping[str, object]] = lambda _: {},
    quiet: Callable[[web.Request], bool] = lambda _: False,
    min_status: int = 0,
    encode: Callable[[Mapping[str, object]], bytes] = json_line,
) -> Middleware:
    """Write one encoded line a request when its handler is done, whatever became of it.

    `fields` adds members (request id, subject, ...). A `quiet` request (a health probe) is left
    out, and so is what ends below `min_status`. The level is `error` for a 500, `warning` for a
    502 to 504, else `info`: a client that leaves is no error, its status is 499 as in nginx's log.
    """

    @web.middleware
    async def log(request: web.Request, handler: Handler) -> web.StreamResponse:
        started = time.perf_counter()
        response: web.StreamResponse | None = None
        status = 499  # neither an answer nor an error: cancelled, or the connection was lost
        try:
            response = answer = await handler(request)
            status = answer.status
        except web.HTTPException as error:
            response, status = error, error.status
            raise
        except Exception as error:
            status = 499 if isinstance(error, ConnectionResetError) else 500
            raise
        finally:
            if status >= min_status and not quiet(request):
                line = _line(request, response, status, time.perf_counter() - started)
                line.update(fields(request))
                try:  # noqa: SIM105  # each `suppress` would be three calls
                    write(encode(line))
                except OSError:  # a closed pipe or full disk fails no request
                    pass
        return answer

    return log


def _line(
    request: web.Request, response: web.StreamResponse | None, status: int, seconds: float
) -> dict[str, object]:
    resource = request.match_info.route.resource
    return {
        "ts": datetime.now(UTC),
        "level": "info" if status < 500 else "error" if status == 500 else "warning",
        "msg": "request",
        "method": request.method,
        "route": resource.canonical if resource is not None else None,
        "path": request.path,
        "status": status,
        "duration_ms": round(seconds * 1000, 2),
        "bytes": _size(request, response),
        "client": request.remote,
    }


def _size(request: web.Request, response: web.StreamResponse | None) -> int:
    """Bytes of the body about to be written; for a stream, all that went out, headers included."""
    if response is None or response.prepared:
        return request.writer.output_size
    body = getattr(response, "body", None)
    return len(body) if type(body) is bytes else response.content_length or 0
