"""Key sets of a token issuer that rotate, fail, stall and lie, while valid tokens stay valid.

Keys are fetched through the application's own ClientSession, refreshed in the background, and kept
when the issuer is down or answers rubbish. An unknown `kid` asks the issuer again, once a cooldown.

Wiring::

    keys = JWKS("https://issuer.example/jwks.json", lambda: app[SESSION], changed=cache.clear)
    app.cleanup_ctx.append(keys.background)
    verify = jwks_verifier(keys, policy)

Needs: aiohttp>=3.14.4, pyjwt[crypto]>=2.14
Order: its cleanup context after the one that opens the session.
Not: discovery or Cache-Control. A key has to be published a cooldown before it signs; one replaced
    under the same `kid` is noticed by the background refresh, not by tokens. Stale keys are served
    for as long as the issuer is away.
"""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import cast

import jwt
from aiohttp import ClientSession, ClientTimeout, web
from yarl import URL

__all__ = ["JWKS", "Timing"]

Jwk = dict[str, object]
LOG = logging.getLogger(__name__)
ALGORITHMS = {"RSA": "RS256", "EC P-256": "ES256", "OKP Ed25519": "EdDSA"}  # by kty and crv
LOOPBACK = ("localhost", "127.0.0.1", "::1")
MAX_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds: fetch again at half of `ttl`, at most once a `cooldown`, for at most `timeout`."""

    ttl: float = 600.0
    cooldown: float = 10.0
    timeout: float = 5.0
    now: Callable[[], float] = time.monotonic


class JWKS:
    """A key source: await it with `(kid, algorithm)`; LookupError when no key, or not one, fits.

    `changed` is called when the set of keys is another than before.
    Raises ValueError for a URL that is neither https nor loopback.
    """

    def __init__(
        self,
        url: str,
        session: Callable[[], ClientSession],
        *,
        timing: Timing | None = None,
        changed: Callable[[], object] = lambda: None,
    ) -> None:
        self._url = URL(url)
        if self._url.scheme != "https" and self._url.host not in LOOPBACK:
            raise ValueError("the JWKS URL must be https")
        self._session, self._changed, self._timing = session, changed, timing or Timing()
        self._keys: list[tuple[Jwk, jwt.PyJWK]] = []
        self._asked = self._fetched = float("-inf")
        self._flight: asyncio.Task[None] | None = None
        self.fetches = self.failures = 0

    @property
    def ready(self) -> bool:
        """Whether keys were ever fetched; without them no token can be judged."""
        return bool(self._keys)

    async def __call__(self, kid: str | None, algorithm: str) -> jwt.PyJWK:
        if (key := self._find(kid, algorithm)) is None:
            await self.refresh()
            key = self._find(kid, algorithm)
        if not self.ready:  # a 401 would make honest clients throw good tokens away
            wait = {"Retry-After": str(max(1, round(self._timing.cooldown)))}
            raise web.HTTPServiceUnavailable(headers=wait, text="Tokens cannot be verified yet.")
        if key is None:
            raise LookupError("no key fits")
        return key

    async def refresh(self) -> None:
        """Join the fetch in flight, or begin one unless the cooldown forbids it; never raises."""
        if self._flight is None:
            if self._timing.now() - self._asked < self._timing.cooldown:
                return
            self._asked = self._timing.now()
            self._flight = asyncio.create_task(self._fetch())
        # `wait` neither cancels the fetch with one of its waiters nor raises what it raised.
        await asyncio.wait({self._flight})

    async def background(self, _: web.Application) -> AsyncIterator[None]:
        """Cleanup context: fetch at once without holding up the start, then at half the TTL."""
        task = asyncio.create_task(self._keep_fresh())
        try:
            yield
        finally:
            running = [task] if self._flight is None else [task, self._flight]
            for each in running:
                each.cancel()
            await asyncio.wait(running)

    async def _keep_fresh(self) -> None:
        while True:
            await self.refresh()
            failed = self._fetched < self._asked
            await asyncio.sleep(self._timing.cooldown if failed else self._timing.ttl / 2)

    async def _fetch(self) -> None:
        self.fetches += 1
        try:
            keys = await self._download()
            before, self._keys, self._fetched = self._keys, keys, self._timing.now()
            if [raw for raw, _ in before] != [raw for raw, _ in keys]:
                self._changed()
        except Exception as error:  # whatever the issuer does, the keys at hand stay
            self.failures += 1
            LOG.warning("key set not refreshed: %s", type(error).__name__)
        finally:
            self._flight = None

    async def _download(self) -> list[tuple[Jwk, jwt.PyJWK]]:
        body = bytearray()
        async with self._session().get(
            self._url, allow_redirects=False, timeout=ClientTimeout(total=self._timing.timeout)
        ) as response:
            if response.status != 200:
                raise ValueError("not a 200")
            async for chunk in response.content.iter_chunked(16_384):
                body += chunk
                if len(body) > MAX_BYTES:
                    raise ValueError("too large")
        raws = cast("list[Jwk]", json.loads(body)["keys"])
        usable = [(raw, key) for raw in raws if (key := _key(raw)) is not None]
        if not usable:
            raise ValueError("no usable key")
        return usable

    def _find(self, kid: str | None, algorithm: str) -> jwt.PyJWK | None:
        """The first key of that name; without a `kid` only when there is no choice to make."""
        fits = [key for _, key in self._keys if key.algorithm_name == algorithm]
        if kid is not None:
            return next((key for key in fits if key.key_id == kid), None)
        return fits[0] if len(fits) == 1 else None


def _key(raw: Jwk) -> jwt.PyJWK | None:
    try:
        algorithm = ALGORITHMS[f"{raw['kty']} {raw.get('crv', '')}".rstrip()]
        key = jwt.PyJWK(raw, algorithm)
        fit = (
            raw.get("alg", algorithm) == algorithm
            and raw.get("use", "sig") == "sig"
            and "verify" in cast("list[str]", raw.get("key_ops", ["verify"]))
            and "d" not in raw  # a private key in public: whoever read it can sign
            and isinstance(raw.get("kid", ""), str)
            and not key.Algorithm.check_key_length(key.key)  # RSA under 2048 bits
        )
    except Exception:  # one bad key must not cost the good ones
        return None
    return key if fit else None
