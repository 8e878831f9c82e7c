"""Circuit breaker: an origin that keeps failing is left alone for a while, then asked once.

Otherwise each call to a dead upstream costs a full timeout and a slot, and the upstream that tries
to come back is met by everything that piled up.

Wiring::

    session = aiohttp.ClientSession(middlewares=(CircuitBreaker(threshold=5, cooldown=5.0),))

Needs: aiohttp>=3.14.4
Order: the innermost client middleware, inside retries: each attempt is counted, so the upstream
    gets `threshold` failing requests, what was under way with them, and the probes.
Not: what goes wrong in a body, after the headers. Each process has its own state.
"""

import time
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field

import aiohttp
from yarl import URL

__all__ = ["CircuitBreaker", "CircuitOpen"]


class CircuitOpen(aiohttp.ClientError):
    """The call was not made; one may be in `retry_after` seconds."""

    def __init__(self, retry_after: float) -> None:
        super().__init__("circuit open")
        self.retry_after = retry_after


@dataclass(slots=True)
class _Circuit:
    failures: int = 0
    open_until: float | None = None
    probing: bool = False


@dataclass(slots=True)
class CircuitBreaker:
    """A client middleware that counts failures for each origin (scheme, host and port).

    A lost connection, a timeout and a 5xx add one, any other answer takes one off: at `threshold`
    the circuit opens, and calls raise CircuitOpen for `cooldown` seconds. Then a single call goes
    through as the probe, which closes the circuit or opens it anew. A call that was cancelled says
    nothing about the upstream. The last `origins` are remembered.
    """

    _: KW_ONLY
    threshold: int = 5
    cooldown: float = 5.0
    origins: int = 256
    now: Callable[[], float] = time.monotonic
    refused: int = field(default=0, init=False)
    _circuits: dict[URL, _Circuit] = field(default_factory=dict[URL, _Circuit], init=False)

    @property
    def open(self) -> int:
        """Origins that are left alone or being probed."""
        return sum(circuit.open_until is not None for circuit in self._circuits.values())

    async def __call__(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        circuit = self._circuit(request.url.origin())
        probe = circuit.open_until is not None
        if circuit.open_until is not None:
            wait = circuit.open_until - self.now()
            if circuit.probing or wait > 0:
                self.refused += 1
                raise CircuitOpen(max(wait, 1.0))
            circuit.probing = True
        try:
            response = await handler(request)
        except (aiohttp.ClientError, OSError):  # TimeoutError is an OSError
            self._note(circuit, probe=probe, good=False)
            raise
        else:
            self._note(circuit, probe=probe, good=response.status < 500)
            return response
        finally:
            if probe:
                circuit.probing = False

    def _circuit(self, origin: URL) -> _Circuit:
        # A dict keeps its order: put in again, this origin is the last to be forgotten.
        circuit = self._circuits[origin] = self._circuits.pop(origin, _Circuit())
        if len(self._circuits) > self.origins:
            del self._circuits[next(iter(self._circuits))]
        return circuit

    def _note(self, circuit: _Circuit, *, probe: bool, good: bool) -> None:
        if circuit.open_until is not None and not probe:
            return  # begun before the opening: old news, in both directions
        circuit.failures = max(0, circuit.failures + (-1 if good else 1))
        if probe and good:
            circuit.failures, circuit.open_until = 0, None
        elif circuit.failures >= self.threshold:
            circuit.open_until = self.now() + self.cooldown
