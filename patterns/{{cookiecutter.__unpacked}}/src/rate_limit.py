"""Rate limit: each key may make so many requests in so many seconds, in memory that is bounded.

A counter that is read, awaited for and then written lets a burst through, one keyed by the peer
counts the proxy, and a dict of all keys ever seen grows until the process is killed.

Wiring::

    limit = RateLimit(100, per=60)
    app.middlewares.append(rate_limit(limit, key=client_network))

Needs: aiohttp>=3.14.4
Order: by address: outside auth, so that guessing is limited too, and inside trusted proxies. By
    subject: inside auth. Inside errors and metrics, which format and count the 429.
Not: a limit over several processes, each counts for itself; nor protection of capacity, which is
    backpressure's. `RateLimit-*` headers are left out while they are an Internet-Draft.
"""

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, ip_address, ip_network

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

__all__ = ["RateLimit", "client_network", "rate_limit"]


@dataclass(slots=True, eq=False)
class RateLimit:
    """`requests` at once, and as many again evenly over `per` seconds (the GCRA of ATM).

    One number is kept a key: when its allowance will be whole again. At `max_keys` the key that
    was admitted longest ago is forgotten, so a flood of new keys costs the limit's memory, not the
    process's. `refused` counts refusals.
    """

    requests: int
    per: float
    max_keys: int = 100_000
    now: Callable[[], float] = time.monotonic
    refused: int = field(default=0, init=False)
    _whole: OrderedDict[str, float] = field(default_factory=OrderedDict[str, float], init=False)

    def __post_init__(self) -> None:
        if self.requests < 1 or self.per <= 0 or self.max_keys < 1:
            raise ValueError("a rate limit needs at least one request, some seconds and one key")

    def __len__(self) -> int:
        return len(self._whole)

    def take(self, key: str) -> float:
        """Count one request of `key`, and return 0; or refuse, and return the seconds to wait.

        It never waits itself: nothing can come between the look and the counting. A refused
        request costs the key nothing, so a client that keeps trying is not locked out for ever.
        """
        now = self.now()
        whole = max(self._whole.get(key, now), now) + self.per / self.requests
        if (wait := whole - now - self.per) > 1e-6:  # a microsecond, for the rounding of floats
            self.refused += 1
            return wait
        self._whole[key] = whole
        self._whole.move_to_end(key)
        if len(self._whole) > self.max_keys:
            self._whole.popitem(last=False)
        return 0


def rate_limit(limit: RateLimit, *, key: Callable[[web.Request], str | None]) -> Middleware:
    """Answer 429 (RFC 6585, section 4) with `Retry-After` to a key that is over its limit.

    `key` says whom a request counts for; what it gives None for (health checks) is not limited.
    """

    @web.middleware
    async def limited(request: web.Request, handler: Handler) -> web.StreamResponse:
        counted = key(request)
        if counted is not None and (wait := limit.take(counted)):
            raise web.HTTPTooManyRequests(
                text="Too many requests; try again later.",
                headers={hdrs.RETRY_AFTER: str(math.ceil(wait))},
            )
        return await handler(request)

    return limited


def client_network(request: web.Request) -> str:
    """The client's IPv4 address, or of IPv6 the /64: one customer has 2**64 addresses to try.

    Behind a proxy `request.remote` is the proxy until something believes its headers.
    """
    remote = request.remote or ""
    try:
        address = ip_address(remote.partition("%")[0])
    except ValueError:
        return remote  # a Unix socket
    mapped = address if isinstance(address, IPv4Address) else address.ipv4_mapped
    return str(mapped or ip_network((int(address), 64), strict=False))
