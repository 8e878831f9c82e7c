"""Verified tokens, remembered: a signature check costs more than the rest of a request does.

An entry lives at most `ttl` seconds and never past the token's own end. Only verified tokens are
put in, so a stranger can neither fill the cache nor learn anything from it.

Wiring::

    cache = TokenCache(leeway=10)
    app.middlewares.append(jwt_auth(verify=verify, realm="my-service", cache=cache))

Needs: the standard library
Order: none; the auth middleware asks it before it verifies.
Not: revocation before `ttl`, except by `clear()`, which is for a change of keys.
"""

import time
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["TokenCache"]

T = TypeVar("T")
Now = Callable[[], float]


class TokenCache(Generic[T]):
    """At most `size` values by token, the oldest leaving first; `leeway` is the verifier's."""

    def __init__(
        self, *, leeway: float = 0, size: int = 1024, ttl: float = 60, now: Now = time.time
    ) -> None:
        self._leeway, self._size, self._ttl, self._now = leeway, size, ttl, now
        self._entries: dict[tuple[int, str], tuple[T, float, float]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, token: str) -> T | None:
        """The value put for this very token, or None when there is none that is still good."""
        key = _key(token)
        value, stored, until = self._entries.get(key, (None, 0, 0))
        if stored <= self._now() < until:  # a clock that was set back prolongs nothing
            return value
        self._entries.pop(key, None)
        return None

    def put(self, token: str, value: T, expires_at: float) -> None:
        """Remember a verified token; `expires_at` is its `exp`, in Unix seconds."""
        now, key = self._now(), _key(token)
        self._entries.pop(key, None)
        if len(self._entries) >= self._size:
            del self._entries[next(iter(self._entries))]
        self._entries[key] = (value, now, min(now + self._ttl, expires_at + self._leeway))

    def clear(self) -> None:
        """Forget everything: keys changed, so what the old ones signed is verified again."""
        self._entries.clear()


def _key(token: str) -> tuple[int, str]:
    """A hit is the same hash, which is keyed in each process, and the same 96 bits at the end.

    Not the text, which is a credential in every core dump: without the key, this leaves 160 bits of
    an HS256 signature to guess. A BLAKE2 digest would do as well, for 2 µs of the bar of 5.
    """
    return hash(token), token[-16:]
