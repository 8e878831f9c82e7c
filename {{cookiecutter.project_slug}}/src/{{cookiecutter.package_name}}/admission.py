"""Admission: how many requests are let in, and what the others are told, and where."""

from collections.abc import Callable
from functools import partial

from aiohttp import web
from aiohttp.typedefs import Middleware

from .patterns.backpressure import FULL, Permits, backpressure, mark_of
from .patterns.cheap_refusal import cheap_refusal, refusal_bytes
from .patterns.drain import Drain
from .patterns.early_refusal import Gate, paths_of
from .patterns.request_id import request_id
from .patterns.security_headers import API_HEADERS

__all__ = ["GATE", "backpressure_of", "gate_of"]

GATE: web.AppKey[Callable[[], Gate]] = web.AppKey("gate")


def backpressure_of(permits: Permits, drain: Drain) -> Middleware:
    refuse = cheap_refusal(
        headers=API_HEADERS, request_id=request_id, draining=lambda: drain.draining
    )
    return backpressure(permits, refuse=refuse)


def gate_of(app: web.Application, permits: Permits, drain: Drain) -> Callable[[], Gate]:
    """Make the gate that refuses before the middleware; call it when all routes are there."""

    def marked(handler: object, method: str) -> bool:
        return mark_of(handler, method) is not None

    return lambda: Gate(
        crowded=lambda: permits.crowded() and not drain.draining,
        admits=permits.admits,
        spared=paths_of(app, marked),
        answer=partial(refusal_bytes(API_HEADERS), FULL),
    )
