"""Cheap refusals: a 503 of bytes made beforehand, for a middleware that sheds load.

At five times the load refusing is most of what a server does, and ordinary responses for it cost a
quarter of the capacity. This one is a problem document (RFC 9457) written to the transport itself;
it skips the `on_response_prepare` callbacks, so it brings their headers itself.

Wiring::

    refuse = cheap_refusal(headers={"X-Content-Type-Options": "nosniff"}, request_id=new_id)
    app.middlewares.append(shed_load(refuse))

Needs: aiohttp>=3.14.4
Order: returned by the outermost middleware; one further out would only see an empty 503.
Not: an answer for every request. Browsers' (`Origin`), HEAD, HTTP/1.0, `Connection: close`, a body
    still on its way, and all while `draining`: these get an ordinary response with every callback.
"""

import json
import random
from collections.abc import Callable, Mapping

from aiohttp import HttpVersion11, hdrs, web

__all__ = ["cheap_refusal", "refusal_bytes"]

ANSWER = web.RequestKey("prebuilt_answer", bytes)
quoted = json.JSONEncoder().encode  # json.dumps takes twice as long to get there


def cheap_refusal(
    *,
    headers: Mapping[str, str] | None = None,
    request_id: Callable[[web.Request], str] | None = None,
    draining: Callable[[], bool] = lambda: False,
) -> Callable[[web.Request, str], web.StreamResponse]:
    """Answer 503 with the given sentence as `detail` and a `Retry-After` of 1 to 5 seconds.

    What `request_id` returns must be ASCII and safe in a header; `detail` must be safe in JSON.
    """
    fixed, prebuilt = _with_type(headers), _Prebuilt(status=503)
    answer = refusal_bytes(headers)

    def refuse(request: web.Request, detail: str) -> web.StreamResponse:
        known = request_id(request) if request_id is not None else ""
        path = request.rel_url.raw_path
        if draining() or not _plain(request):
            own = {hdrs.RETRY_AFTER: str(_soon())} | ({"X-Request-ID": known} if known else {})
            body = _body(detail, path, known).encode()
            return web.Response(status=503, body=body, headers=fixed | own)
        request[ANSWER] = answer(detail, path, known)
        return prebuilt

    return refuse


def refusal_bytes(headers: Mapping[str, str] | None = None) -> Callable[[str, str, str], bytes]:
    """The same answer, from a sentence, a path and an id, for what has no request at hand."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in _with_type(headers).items())
    head = f"HTTP/1.1 503 Service Unavailable\r\n{lines}{hdrs.RETRY_AFTER}: "

    def answer(detail: str, path: str, known: str) -> bytes:
        body = _body(detail, path, known)
        line = f"X-Request-ID: {known}\r\n" if known else ""
        return f"{head}{_soon()}\r\n{line}Content-Length: {len(body)}\r\n\r\n{body}".encode("ascii")

    return answer


def _with_type(headers: Mapping[str, str] | None) -> dict[str, str]:
    return {**(headers or {}), hdrs.CONTENT_TYPE: "application/problem+json"}


def _soon() -> int:
    return int(1 + random.random() * 5)  # noqa: S311  # or all would come back together


def _body(detail: str, path: str, known: str) -> str:
    member = f',"request_id":"{known}"' if known else ""
    return (
        '{"type":"about:blank","title":"Service Unavailable","status":503,'
        f'"detail":"{detail}","instance":{quoted(path)}{member}}}'
    )


class _Prebuilt(web.StreamResponse):
    """Stands for the request's own bytes. Without `Date`, as RFC 9110, section 6.6.1 allows."""

    @property
    def keep_alive(self) -> bool:
        return True  # a request that asked to close got an ordinary response

    async def prepare(self, request: web.BaseRequest) -> None:
        if request.transport is None:
            raise ConnectionResetError("the client left")
        request.transport.write(request[ANSWER])
        if request.transport.get_write_buffer_size():  # it pipelines and does not read
            await request.writer.drain()

    async def write_eof(self, data: bytes = b"") -> None:
        pass


def _plain(request: web.Request) -> bool:
    return (
        request.version == HttpVersion11
        and request.keep_alive
        and request.method != hdrs.METH_HEAD
        and request.content.is_eof()
        and hdrs.ORIGIN not in request.headers
    )
