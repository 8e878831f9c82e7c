"""Backpressure: what is above the limit is refused at once; work answered too late is lost twice.

Semaphore semantics without a queue: a permit a request, taken before any work and never lost.
Streams are counted apart, health checks not at all.

Wiring::

    permits = Permits(FixedLimit(100), max_streams=10_000)
    app.middlewares.append(backpressure(permits))

Needs: aiohttp>=3.14.4
Order: outermost. `never_shed` marks health checks, `stream` marks WebSocket and SSE handlers.
Not: fair shares between clients (a rate limit), nor slow readers: the permit ends with the handler.
"""

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NoReturn, Protocol, TypeAlias, TypeVar

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

__all__ = [
    "FULL",
    "FixedLimit",
    "Limit",
    "Permits",
    "backpressure",
    "mark_of",
    "never_shed",
    "stream",
]

logger = logging.getLogger(__name__)
F = TypeVar("F", bound=Callable[..., object])
Refuse: TypeAlias = Callable[[web.Request, str], web.StreamResponse]
MARK = "backpressure_mark"
REASONS = ("requests", "streams", "bodies", "gone")
REPORT_EVERY = 1.0  # seconds
FULL = "The service handles as many requests as it can; try again later."
STREAMS = "The service has as many open streams as it can; try again later."
BODIES = "Too many requests are still sending their body; try again later."


def never_shed(handler: F) -> F:
    """Mark a handler, a class-based view or one method of it (health checks) as never refused."""
    setattr(handler, MARK, "health")
    return handler


def stream(handler: F) -> F:
    """Mark a handler, view or method as long-lived: it counts as a stream, not as a request."""
    setattr(handler, MARK, "stream")
    return handler


class Limit(Protocol):
    """How many requests at once. It hears of every arrival, and of how many have finished."""

    @property
    def limit(self) -> int: ...
    def admit(self, in_flight: int) -> bool: ...
    def finished(self, count: int) -> None: ...


@dataclass(frozen=True, slots=True)
class FixedLimit:
    """The same number of requests at any time."""

    limit: int

    def admit(self, in_flight: int) -> bool:
        return in_flight < self.limit

    def finished(self, count: int) -> None: ...  # a fixed limit learns nothing from it


def refuse_in_full(request: web.Request, detail: str) -> NoReturn:
    """Raise 503 with a random `Retry-After`, or all who were refused would come back together."""
    seconds = str(random.randint(1, 5))  # noqa: S311  # no secret
    raise web.HTTPServiceUnavailable(text=detail, headers={hdrs.RETRY_AFTER: seconds})


@dataclass(slots=True)
class Permits:
    """What is taken and what there is, as numbers for gauges; `shed` counts refusals by reason."""

    limit: Limit
    max_streams: int = 10_000
    max_waiting: int = 1_000
    in_flight: int = 0
    streams: int = 0
    waiting: int = 0
    shed: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(REASONS, 0)))
    _leaving: int = field(default=0, init=False)
    _unreported: int = field(default=0, init=False)

    def give_back(self) -> None:
        """Return a permit at the end of the loop's pass.

        A handler that never awaits would else be gone before the next is counted: no limit at all.
        """
        if not self._leaving:
            asyncio.get_running_loop().call_soon(self._end_pass)
        self._leaving += 1

    def crowded(self) -> bool:
        """Whether half of the limit is taken: below, nobody has to look more closely."""
        return 2 * self.in_flight >= self.limit.limit

    def admits(self, promised: int = 0) -> bool:
        """Whether one more may come in, besides those in flight and `promised`; counts a no."""
        if self.limit.admit(self.in_flight + promised):
            return True
        self.refused("requests")
        return False

    @contextmanager
    def lent(self, request: web.Request) -> Generator[None]:
        """Do without the permit while the client is slow to send, and take one again afterwards.

        Raises 503 when `max_waiting` requests do so already, or when no permit is left afterwards.
        """
        if mark_of(request.match_info.handler, request.method) is not None:
            yield  # health checks and streams hold no permit
            return
        if self.waiting >= self.max_waiting:
            self.refused("bodies")
            refuse_in_full(request, BODIES)
        self.waiting += 1
        self.give_back()
        admitted = True
        try:
            yield
            admitted = self.admits()
        finally:
            self.waiting -= 1
            self.in_flight += 1  # even when refused: the middleware gives back what it took
        if not admitted:
            refuse_in_full(request, FULL)

    def refused(self, reason: str) -> None:
        """Count a refusal; those of one second share one line in the log."""
        self.shed[reason] += 1
        if not self._unreported:
            asyncio.get_running_loop().call_later(REPORT_EVERY, self._report)
        self._unreported += 1

    def _end_pass(self) -> None:
        count, self._leaving = self._leaving, 0
        self.in_flight -= count
        self.limit.finished(count)

    def _report(self) -> None:
        count, self._unreported = self._unreported, 0
        logger.warning("refused %d requests in a second (limit %d)", count, self.limit.limit)


def backpressure(permits: Permits, *, refuse: Refuse = refuse_in_full) -> Middleware:
    """Take a permit for every request, or `refuse` it, given a sentence that is safe to show."""

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        mark = mark_of(request.match_info.handler, request.method)
        if mark == "health":
            return await handler(request)
        if request.transport is None:
            permits.shed["gone"] += 1  # left before its turn: nobody waits for the work
            raise web.HTTPServiceUnavailable
        if mark == "stream":
            if permits.streams >= permits.max_streams:
                permits.refused("streams")
                return refuse(request, STREAMS)
            permits.streams += 1
            try:
                return await handler(request)
            finally:
                permits.streams -= 1
        if not permits.admits():
            return refuse(request, FULL)
        permits.in_flight += 1
        try:
            return await handler(request)
        finally:
            permits.give_back()

    return guard


@lru_cache(maxsize=1024)  # of few handlers, asked for each request
def mark_of(handler: object, method: str) -> str | None:
    """What a route's handler is marked as, also a view or its method; None is a plain request."""
    own = getattr(handler, method.lower(), None) if isinstance(handler, type) else None
    return getattr(own, MARK, None) or getattr(handler, MARK, None)
