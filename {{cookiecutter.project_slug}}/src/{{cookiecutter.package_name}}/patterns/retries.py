"""Retries: one more attempt where that is safe, and never more than a tenth on top of the load.

Retrying without a budget finishes off an upstream in trouble. aiohttp repeats each idempotent
request once by itself when a connection is lost, uncounted: this takes its place.

Wiring::

    session = aiohttp.ClientSession(middlewares=(Retries(),))

Needs: aiohttp>=3.14.4
Order: the outermost client middleware; a breaker belongs inside, and ends the retrying.
Not: timeouts (the time is spent, and a slow upstream needs less load) and faults in a body.
"""

import asyncio
import math
import random
from dataclasses import KW_ONLY, dataclass, field

import aiohttp

__all__ = ["Retries"]


@dataclass(slots=True)
class Retries:
    """A client middleware that repeats a call once, after a lost connection or one of `statuses`.

    Each call made earns `ratio` of a retry, up to `burst`, and none is given in advance: the extra
    requests are at most `ratio` of the others. The pause is random, up to `pause` seconds, plus the
    `Retry-After`; one above `patience` ends it. `methods` are idempotent (RFC 9110, section 9.2.2)
    and sent without a stream as body. The session's total timeout covers all of it.
    """

    _: KW_ONLY
    ratio: float = 0.1
    burst: float = 10.0
    pause: float = 0.1
    patience: float = 1.0
    methods: frozenset[str] = frozenset({"GET", "HEAD", "OPTIONS"})
    statuses: frozenset[int] = frozenset({502, 503, 504})
    retried: int = field(default=0, init=False)
    denied: int = field(default=0, init=False)
    _earned: float = field(default=0.0, init=False)

    async def __call__(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        if request.method not in self.methods:
            return await _once(request, handler)
        wait = 0.0
        try:
            response = await _once(request, handler)
        except aiohttp.ClientConnectionError as error:
            if not self._granted(wanted=not isinstance(error, TimeoutError)):
                raise
        else:
            wait = _retry_after(response) if response.status in self.statuses else math.inf
            if not self._granted(wanted=wait <= self.patience):
                return response
            response.release()
        await asyncio.sleep(wait + random.uniform(0, self.pause))  # noqa: S311 - not a secret
        return await _once(request, handler)

    def _granted(self, *, wanted: bool) -> bool:
        # Asked after the attempt, so that calls which a breaker refuses earn nothing.
        self._earned = min(self.burst, self._earned + self.ratio)
        granted = wanted and self._earned >= 1
        self._earned -= granted
        self.retried += granted
        self.denied += wanted and not granted
        return granted


async def _once(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    try:
        return await handler(request)
    except aiohttp.ClientConnectorError:
        raise  # aiohttp never repeats these, and their type says more
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        # Those two are what aiohttp repeats by itself; their base class it lets pass.
        raise aiohttp.ClientConnectionError("connection lost") from error


def _retry_after(response: aiohttp.ClientResponse) -> float:
    try:
        return max(0.0, float(response.headers.get("Retry-After", "0")))
    except ValueError:  # a date, and clocks differ
        return math.inf
