"""Composition root: read `create_app` from top to bottom, and you know where everything is."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from functools import partial

from aiohttp import web
from aiohttp.typedefs import Middleware
from prometheus_client import CollectorRegistry
from pydantic_core import to_json

from . import api
from .admission import GATE, backpressure_of, gate_of
from .api.keys import BROKER, DEV_TOKEN, HUB, STREAMS, TICKETS
from .dev import dev_token, request_line
from .documentation import add_documentation
from .events import event_broker
from .operations import PROBES, Counted, operation_routes, show_numbers
from .patterns.adaptive_limit import AdaptiveLimit
from .patterns.backpressure import FixedLimit, Limit, Permits
from .patterns.body import bounded_body
from .patterns.breaker import CircuitBreaker
from .patterns.client_session import SESSION, ClientLimits, client_session
from .patterns.cors import cors_headers, cors_preflight
from .patterns.drain import Drain
from .patterns.errors import errors, note_started, problem_document
from .patterns.jwks import JWKS
from .patterns.jwt_auth import AUTH_FAILURE, CLAIMS, Claims, jwt_auth
from .patterns.jwt_verify import TokenPolicy, hs256_verifier, jwks_verifier
from .patterns.loop_watch import watch_loop
from .patterns.metrics import metrics
from .patterns.request_id import identify, ids_of, outbound_headers, request_id, send_request_id
from .patterns.request_log import json_line, request_log
from .patterns.request_parts import READ_BODY
from .patterns.retries import Retries
from .patterns.security_headers import security_headers
from .patterns.sse import Streams
from .patterns.stream_tickets import StreamTickets
from .patterns.token_cache import TokenCache
from .patterns.websocket_hub import Hub
from .settings import Settings

__all__ = ["ADMIN", "DRAIN", "create_app"]

Manager = Callable[[web.Application], AbstractAsyncContextManager[None]]
Generator = Callable[[web.Application], AsyncIterator[None]]

DRAIN = web.AppKey("drain", Drain)
ADMIN = web.AppKey("admin", web.Application)


def create_app(settings: Settings, write: Callable[[bytes], object]) -> web.Application:
    """The service as `settings` describe it; `write` gets the request log, a line a call."""
    app = web.Application(client_max_size=settings.max_body_bytes)
    parts = _parts(settings, app)
    app.middlewares.extend(
        [  # Outermost first; tests/test_order.py holds this order.
            backpressure_of(parts.counted.permits, parts.drain),  # first: refusing must be cheap
            parts.drain.count,  # whatever is let in is waited for when the service stops
            identify,  # all that follows can name the request
            _request_log(settings, write),  # outside of whatever decides on the answer
            metrics(parts.registry),  # likewise
            errors(request_id=request_id),  # one shape for all that is raised further in
            cors_preflight(settings.allowed_origins),  # browsers send it without a token
            _auth(settings, app, parts),  # next to the handlers, whose marks it reads
        ]
    )
    app.on_response_prepare.extend(
        [  # The one place that sees every answer: errors, redirects, handshakes, streams.
            send_request_id,
            security_headers(),
            cors_headers(settings.allowed_origins),
            parts.drain.close_connections,
            note_started,
        ]
    )
    app.cleanup_ctx.extend(
        [  # Entered in this order, left in reverse, after the drain.
            watch_loop(parts.counted.lag),
            _client_session(parts),
            *parts.contexts,
        ]
    )
    api.mount(app, settings)
    if settings.admin_port is None:
        app.add_routes(operation_routes(parts.registry, parts.checks))
    else:
        app[ADMIN] = _admin_app(parts)
    if settings.docs:
        add_documentation(app)
    return app


@dataclass(frozen=True, slots=True)
class _Parts:
    """What several of the steps of `create_app` need."""

    counted: Counted
    drain: Drain
    checks: dict[str, Callable[[], bool]]
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    contexts: list[Generator] = field(default_factory=list[Generator])


def _parts(settings: Settings, app: web.Application) -> _Parts:
    hub, streams = Hub(origins=settings.allowed_origins, error_reply=_error_frame), Streams()
    limit: Limit = FixedLimit(settings.max_concurrency)
    if settings.adaptive_concurrency:
        limit = adaptive = AdaptiveLimit(ceiling=settings.max_concurrency)
        app.on_cleanup.append(adaptive.stop)
    permits = Permits(limit, max_streams=settings.max_streams)
    ends = [hub.drain, streams.drain]
    drain = Drain(delay=settings.drain_delay, timeout=settings.shutdown_timeout, streams=ends)
    app[DRAIN], app[HUB], app[STREAMS] = drain, hub, streams
    app[GATE] = gate_of(app, permits, drain)
    app[READ_BODY] = bounded_body(
        max_bytes=settings.max_body_bytes, timeout=settings.body_timeout, waiting=permits.lent
    )
    parts = _Parts(Counted(permits, hub, streams), drain, {"serving": lambda: not drain.draining})
    show_numbers(parts.registry, parts.counted)
    app[BROKER] = event_broker(settings, parts.contexts, parts.checks)
    return parts


def _error_frame(error: web.HTTPException) -> bytes:
    return to_json({"type": "error", "problem": problem_document(error)})


def _admin_app(parts: _Parts) -> web.Application:
    """Health and metrics by themselves, for a port that is not public."""
    admin = web.Application(middlewares=[errors(request_id=request_id)])
    admin.on_response_prepare.extend([send_request_id, security_headers(), note_started])
    admin.add_routes(operation_routes(parts.registry, parts.checks))
    return admin


def _request_log(settings: Settings, write: Callable[[bytes], object]) -> Middleware:
    def fields(request: web.Request) -> dict[str, str | None]:
        ids, claims = ids_of(request), request.get(CLAIMS)
        sub = claims.sub if claims is not None else None
        line = {"request_id": ids.request_id, "trace_id": ids.trace_id, "sub": sub}
        # tuple(), as `in request` raises a KeyError and catches it.
        return line | ({"auth": request[AUTH_FAILURE]} if AUTH_FAILURE in tuple(request) else {})

    return request_log(
        write,
        fields=fields,
        quiet=lambda request: request.path in PROBES,
        min_status=500 if settings.log_level in {"warning", "error"} else 0,
        encode=request_line if settings.log_format == "console" else json_line,
    )


def _auth(settings: Settings, app: web.Application, parts: _Parts) -> Middleware:
    secret = settings.jwt_secret.get_secret_value().encode()
    policy = TokenPolicy(
        issuer=settings.jwt_issuer, audience=settings.jwt_audience, leeway=settings.jwt_leeway
    )
    cache: TokenCache[Claims] = TokenCache(leeway=settings.jwt_leeway)
    if settings.jwt_jwks_url is None:
        verify = hs256_verifier(secret, policy)
        if settings.env == "dev":
            mint: Callable[..., str] = partial(dev_token, settings)
            app[DEV_TOKEN] = mint
    else:
        keys = JWKS(str(settings.jwt_jwks_url), lambda: app[SESSION], changed=cache.clear)
        verify = jwks_verifier(keys, policy)
        parts.contexts.append(keys.background)
        parts.checks["keys"] = lambda: keys.ready
    app[TICKETS] = tickets = StreamTickets(secret, audience=settings.jwt_audience)
    return jwt_auth(verify=verify, realm=settings.jwt_audience, cache=cache, ticket=tickets.redeem)


def _client_session(parts: _Parts) -> Manager:
    return client_session(
        ClientLimits(),
        stats=parts.counted.stats,
        headers=outbound_headers,
        middlewares=(Retries(), CircuitBreaker()),  # in this order each attempt is counted
    )
