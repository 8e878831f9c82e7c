"""Client session: one ClientSession for the application, with the bounds that aiohttp leaves open.

By default a call may take 300 seconds and any number of connections to one host, redirects are
followed wherever they lead, and one user's cookies are sent with the calls of the next.

Wiring::

    app.cleanup_ctx.append(client_session(ClientLimits(total=5), stats=ClientStats()))

    async def handler(request: web.Request) -> web.Response:
        async with request.app[SESSION].get("http://127.0.0.1:9000/") as answer:
            return web.Response(body=await answer.content.read(4096))

Needs: aiohttp>=3.14.4
Order: the first cleanup context, so that it closes last. Of the client middlewares retries come
    first, then a breaker: it counts each attempt, and once open it ends the retrying.
Not: a cap on the size of answers. Faults in a body come after the outcome is counted.
"""

import math
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace

import aiohttp
from aiohttp import web

__all__ = ["SESSION", "ClientLimits", "ClientStats", "client_session"]

SESSION = web.AppKey("client_session", aiohttp.ClientSession)


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """Seconds for a whole call with its retries and body, for the pool and the handshakes together,
    and for one silence between two reads; then connections.
    """

    total: float = 5.0
    connect: float = 2.0
    sock_read: float = 5.0
    limit: int = 300
    limit_per_host: int = 100  # below `limit`, or one hanging host takes the pool from all others


@dataclass(slots=True)
class ClientStats:
    """Calls by outcome (`2xx`, `timeout`, `error`, `cancelled` ...), and the queue for the pool."""

    calls: Counter[str] = field(default_factory=Counter[str])
    pool_waits: int = 0
    pool_waiting: int = 0


def client_session(
    limits: ClientLimits,
    *,
    stats: ClientStats | None = None,
    headers: Callable[[], Mapping[str, str]] = dict,
    middlewares: Sequence[aiohttp.ClientMiddlewareType] = (),
) -> Callable[[web.Application], AbstractAsyncContextManager[None]]:
    """A cleanup context that keeps the session under `SESSION` and closes it with its connections.

    `headers` is asked at each call for what to add (trace context); what the caller set is kept.
    A redirect raises TooManyRedirects unless the call says `allow_redirects=False` to see the 3xx.
    """
    # aiohttp rounds timeouts of 5 s and more up to whole seconds, unless there is no threshold.
    seconds = aiohttp.ClientTimeout(
        limits.total, limits.connect, limits.sock_read, limits.connect, ceil_threshold=math.inf
    )
    tracing = _tracing(stats or ClientStats(), headers)

    @asynccontextmanager
    async def context(app: web.Application) -> AsyncGenerator[None]:
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=limits.limit, limit_per_host=limits.limit_per_host
            ),
            timeout=seconds,
            cookie_jar=aiohttp.DummyCookieJar(),
            trace_configs=[tracing],
            middlewares=middlewares,
        ) as session:
            app[SESSION] = session
            yield

    return context


def _tracing(stats: ClientStats, headers: Callable[[], Mapping[str, str]]) -> aiohttp.TraceConfig:
    async def start(_: object, __: object, call: aiohttp.TraceRequestStartParams) -> None:
        for name, value in headers().items():
            call.headers.setdefault(name, value)

    async def refuse(_: object, __: object, call: aiohttp.TraceRequestRedirectParams) -> None:
        raise aiohttp.TooManyRedirects(call.response.request_info, (call.response,))

    async def queued(_: object, call: SimpleNamespace, __: object) -> None:
        call.queued = 1
        stats.pool_waits += 1
        stats.pool_waiting += 1

    # aiohttp does not tell when a wait ends by timeout or cancellation; the call's own end does.
    async def dequeued(_: object, call: SimpleNamespace, __: object) -> None:
        stats.pool_waiting -= call.__dict__.pop("queued", 0)

    async def end(_: object, __: object, call: aiohttp.TraceRequestEndParams) -> None:
        stats.calls[f"{call.response.status // 100}xx"] += 1

    async def fail(_: object, __: object, call: aiohttp.TraceRequestExceptionParams) -> None:
        slow = isinstance(call.exception, TimeoutError)
        error = isinstance(call.exception, Exception)
        stats.calls["timeout" if slow else "error" if error else "cancelled"] += 1

    config = aiohttp.TraceConfig()
    config.on_request_start.append(start)
    config.on_request_redirect.append(refuse)
    config.on_connection_queued_start.append(queued)
    config.on_connection_queued_end.append(dequeued)
    config.on_request_end.append(end)
    config.on_request_exception.extend((dequeued, fail))
    return config
