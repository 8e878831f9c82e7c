"""Upstream: ask another service for JSON, whatever state that service is in.

The answer is a validated model, or 502, 503 or 504 within the timeout. An upstream that hangs,
drips, redirects, or sends a gigabyte, a compression bomb or nonsense costs a bounded number of
slots, bytes and seconds, and the routes that do not need it never notice.

Wiring::

    upstream = Upstream("http://127.0.0.1:9000", timeout=5.0, max_concurrent=50)

    async def handler(request: web.Request) -> web.Response:
        answer = await upstream.get(request.app[SESSION], "/answers/42", Answer)
        return web.Response(body=answer.model_dump_json(), content_type="application/json")

Needs: aiohttp>=3.14.4, pydantic>=2.12
Order: called by handlers. Keep `max_concurrent` below the number of requests handled at once, and
    not above the connections allowed to a host, so that nothing waits for the pool.
Not: caching, and what client middlewares of the session do: retries, a breaker. A client error
    with an attribute `retry_after` (seconds) is understood as an open breaker.
"""

import logging
import math
import random
from dataclasses import KW_ONLY, dataclass, field
from typing import TypeVar

import aiohttp
from aiohttp import web
from pydantic import BaseModel
from pydantic_core import from_json
from yarl import URL

__all__ = ["Upstream"]

logger = logging.getLogger(__name__)

T = TypeVar("T", bound=BaseModel)
JSON_TYPES = ("application/json", "text/json", "text/plain", "application/octet-stream")  # or none


@dataclass(slots=True)
class Upstream:
    """One service to call: `timeout` seconds for a call, `max_bytes` for a decompressed answer,
    `max_concurrent` calls at once and none waiting. A status in `passes` is raised as it is.
    `slow`, `broken` and `refused` count the 504s, 502s and 503s.
    """

    base_url: str
    _: KW_ONLY
    timeout: float = 5.0
    max_bytes: int = 256 * 1024
    max_concurrent: int = 50
    passes: tuple[type[web.HTTPException], ...] = (web.HTTPNotFound,)
    in_flight: int = field(default=0, init=False)
    slow: int = field(default=0, init=False)
    broken: int = field(default=0, init=False)
    refused: int = field(default=0, init=False)

    async def get(
        self, session: aiohttp.ClientSession, path: str, model: type[T], within: float = math.inf
    ) -> T:
        """GET `base_url` + `path`, whose parts the caller has validated, as a `model`.

        `within` is the time that the request has left. Raises HTTPGatewayTimeout when it is over,
        HTTPServiceUnavailable with `Retry-After` when all slots are taken or a breaker is open,
        HTTPBadGateway for any other fault. `NaN` is no JSON; 1e999 is for the model to refuse.
        """
        if self.in_flight >= self.max_concurrent:
            raise self._refusal(0)
        self.in_flight += 1
        try:
            body = await self._read(session, path, min(within, self.timeout))
            if b"NaN" in body or b"Infinity" in body:
                from_json(body, allow_inf_nan=False)  # which validation alone lets pass
            return model.model_validate_json(body)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise self._fault(error) from error
        finally:
            self.in_flight -= 1

    async def _read(self, session: aiohttp.ClientSession, path: str, seconds: float) -> bytes:
        if seconds <= 0:  # aiohttp would take it for "no timeout"
            raise TimeoutError
        # `connect` ends before `total`: what ends by `total` alone no middleware sees as a timeout.
        connect = min(session.timeout.connect or math.inf, 0.8 * seconds)
        limits = aiohttp.ClientTimeout(seconds, connect, None, connect, ceil_threshold=math.inf)
        url = URL(self.base_url.rstrip("/") + path)
        async with session.get(url, allow_redirects=False, timeout=limits) as response:
            for known in self.passes:
                if response.status == known.status_code:
                    raise known
            kind = response.content_type
            if not 200 <= response.status < 300 or not (kind in JSON_TYPES or "+json" in kind):
                raise aiohttp.ClientResponseError(response.request_info, (), status=response.status)
            body = bytearray()
            async for chunk in response.content.iter_chunked(64 * 1024):  # decompressed
                body += chunk
                if len(body) > self.max_bytes:
                    raise aiohttp.ClientPayloadError
            return bytes(body)

    def _fault(self, error: Exception) -> web.HTTPException:
        retry_after: float | None = getattr(error, "retry_after", None)
        if retry_after is not None:
            return self._refusal(retry_after)
        # Never the error's own text: it may hold the upstream's words or our credentials.
        fault, status = type(error).__name__, getattr(error, "status", "")
        logger.warning("upstream %s: %s %s", URL(self.base_url).host, fault, status)
        if isinstance(error, TimeoutError):  # some are client errors as well
            self.slow += 1
            return web.HTTPGatewayTimeout(text="An upstream service took too long.")
        self.broken += 1
        return web.HTTPBadGateway(text="An upstream service gave no usable answer.")

    def _refusal(self, seconds: float) -> web.HTTPServiceUnavailable:
        self.refused += 1
        # Jitter, so that those refused together do not come back together.
        wait = math.ceil(seconds) + random.randint(1, 3)  # noqa: S311 - not a secret
        text = "An upstream service is not available at the moment."
        return web.HTTPServiceUnavailable(text=text, headers={"Retry-After": str(wait)})
