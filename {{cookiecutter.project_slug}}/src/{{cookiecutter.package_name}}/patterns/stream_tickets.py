"""Stream tickets: a browser's WebSocket and EventSource cannot send headers, and URLs are logged.

A client buys a ticket with its token and opens the stream with `?ticket=`. It is good once, for
seconds, on one path, and carries its buyer's subject, scopes and end, for the stream to end with.

Wiring::

    tickets = StreamTickets(secret, audience="my-service")
    app.middlewares.append(jwt_auth(verify=verify, realm="my-service", ticket=tickets.redeem))
    app.router.add_get("/events", ticketed(events))

Needs: the standard library
Order: none; the auth middleware redeems, and a route of the application issues.
Not: single use across processes. Any process with the same secret honours a ticket and remembers
    those it redeemed itself, so a copied one is good on another for the rest of its seconds.
    The subject is readable in a ticket.
"""

import hmac
import json
import os
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterable, Mapping
from typing import Any

__all__ = ["StreamTickets"]

Now = Callable[[], float]
MAX_TICKET = 8192  # characters; an HTTP request line holds no more anyway
MAX_REMEMBERED = 65_536  # redeemed tickets; in a flood the oldest are forgotten: bounded memory


class StreamTickets:
    """Issue and redeem. Processes that share `secret` and `audience` honour each other's tickets.

    The key is derived from both, so a ticket is no token, a token is no ticket, and a ticket of
    another service is neither. Raises ValueError for a secret under 32 bytes.
    """

    def __init__(
        self, secret: bytes, *, audience: str, ttl: float = 30, now: Now = time.time
    ) -> None:
        if len(secret) < 32:
            raise ValueError("the ticket secret must have at least 32 bytes")
        self._key = hmac.digest(secret, b"stream-ticket\0" + audience.encode(), "sha256")
        self._now, self.ttl = now, ttl
        self._redeemed: dict[str, float] = {}

    def issue(self, *, sub: str, scopes: Iterable[str], expires_at: float, path: str) -> str:
        """A ticket for the bearer of a token that ends at `expires_at` (Unix seconds).

        `path` is compared as it stands in the request line: percent-encoded, without the query.
        """
        body = {
            "sub": sub,
            "scope": " ".join(sorted(scopes)),
            "exp": expires_at,
            "path": path,
            "until": min(self._now() + self.ttl, expires_at),
            "id": os.urandom(16).hex(),
        }
        text = urlsafe_b64encode(json.dumps(body).encode()).decode().rstrip("=")
        return f"{text}.{self._mac(text)}"

    def redeem(self, ticket: str, path: str) -> Mapping[str, object]:
        """The `sub`, `scope` and `exp` of the token that bought it; ValueError for a bad ticket."""
        text, _, mac = ticket.partition(".")
        if len(ticket) > MAX_TICKET or not ticket.isascii():
            raise ValueError("malformed ticket")
        # Nothing is decoded before it is known to be ours, so nothing below can fail to decode.
        if not hmac.compare_digest(mac, self._mac(text)):
            raise ValueError("bad ticket")
        body: dict[str, Any] = json.loads(urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        now = self._now()
        if now >= body["until"]:
            raise ValueError("expired ticket")
        if body["path"] != path:
            raise ValueError("ticket for another path")
        ends = self._redeemed
        if body["id"] in ends:
            raise ValueError("used ticket")
        # Insertion order is nearly the order of ends, so the old ones are at the front.
        while ends and (next(iter(ends.values())) <= now or len(ends) >= MAX_REMEMBERED):
            del ends[next(iter(ends))]
        ends[body["id"]] = now + self.ttl
        return {name: body[name] for name in ("sub", "scope", "exp")}

    def _mac(self, text: str) -> str:
        return hmac.digest(self._key, text.encode(), "sha256").hex()
