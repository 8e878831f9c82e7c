"""Adaptive limit: as many requests at once as the event loop bears, without tuning.

A number that suits handlers that wait (hundreds) drowns handlers that compute (tens). Here the
number follows how late a 10 ms timer runs: a late loop lowers it, refusals on a free loop raise it.
A slow dependency does not make the loop late, so it makes nobody be refused.

Wiring::

    limit = AdaptiveLimit(ceiling=1000)
    app.on_cleanup.append(limit.stop)

Needs: aiohttp>=3.14.4
Order: give it to whatever counts requests; it is told of arrivals (`admit`) and of `finished` ones.
Not: one limit a route or dependency: a single sick dependency still needs its timeout and its own
    bound. CPU work of more than about 50 ms at a time belongs in a thread or a process.
"""

import asyncio
import math
from dataclasses import dataclass

from aiohttp import web

__all__ = ["AdaptiveLimit"]

TICK, WINDOW = 0.010, 0.100  # seconds between two probes, and between two decisions
GROWTH = 1.5
WORTH = 1.2  # a step that brings less bought waiting room: the bottleneck is downstream
RESUME = 3.0  # seconds in which refusals must come back for a step to be judged
HOLD, LONGEST_HOLD = 0.5, 8.0


@dataclass(frozen=True, slots=True)
class _Step:
    """A raise of the limit that has yet to show what it is worth."""

    limit: float
    rate: float
    until: float


class AdaptiveLimit:
    """A `limit` between `floor` and `ceiling` at which the loop runs about `target` seconds late.

    A line of requests rides out a burst, but the more are refused, the more it only makes those let
    in wait: where all were, the loop is to be late by 0.3 of it.
    The probe starts with the first request and stops when none is in flight. Prior art: CoDel (RFC
    8289) for standing delay as the signal, DAGOR (SoCC 2018) for delay instead of latency.
    """

    def __init__(
        self, *, ceiling: int = 1000, floor: int = 8, start: int = 64, target: float = 0.018
    ) -> None:
        self.ceiling, self.floor, self.target = ceiling, min(floor, ceiling), target
        self._level, self._cold = 0.0, start
        self._refused = self._in_flight = self._peak = self._settled = 0
        self._done = self._done_before = 0  # all in all, and when it decided last
        self._measured_from = (0.0, 0)  # when, and how many had finished by then
        self._step: _Step | None = None
        self._hold, self._held_until = HOLD, 0.0
        self._late: list[float] = []
        self._window_end = 0.0
        self._probe: asyncio.TimerHandle | None = None
        self._set(start)

    def admit(self, in_flight: int) -> bool:
        """Whether one more request may be taken on besides those in flight."""
        if self._probe is None:
            self._start()
        admitted = in_flight < self.limit
        self._in_flight = in_flight + admitted
        self._peak = max(self._peak, self._in_flight)
        self._refused += not admitted
        return admitted

    def finished(self, count: int) -> None:
        self._done += count
        self._in_flight = max(0, self._in_flight - count)

    async def stop(self, _app: web.Application | None = None) -> None:
        """Leave no timer behind; an `on_cleanup` callback."""
        if self._probe is not None:
            self._probe.cancel()
            self._probe = None

    def decide(self, delay: float, now: float) -> None:
        """One decision, from what was counted since the last one. Pure but for this object."""
        refused, self._refused = self._refused, 0
        peak, self._peak = self._peak, self._in_flight
        done, self._done_before = self._done - self._done_before, self._done
        target = self.target * (1 - 0.7 * refused / max(1, refused + done))
        if delay <= target / 2:
            if refused:
                self._grow(now)
            elif peak < self.limit / 2:  # else they come and go in step, and will be refused again
                self._measured_from = (now, self._done)
        else:
            self._measured_from = (now, self._done)
            factor = max(0.5, math.sqrt(target / delay))
            # A stall that the requests did not cause (few are in flight) lowers nothing.
            if refused if factor > 1 else peak >= self.limit / 2:
                self._step = None
                self._set(self._level * factor)

    def _grow(self, now: float) -> None:
        """Raise the limit while that brings more answers a second; take back a raise that did not.

        The rate is taken once every slot has turned over since the last change, and over at least
        one more turn. Without this check a saturated pool downstream is handed ever more waiters.
        """
        since, before = self._measured_from
        if self._step is not None:
            if now > self._step.until:
                self._step = None  # nobody was refused for long: the step was enough
            else:
                self._step = _Step(self._step.limit, self._step.rate, math.inf)
        if before < self._settled:
            self._measured_from = (now, self._done)
            return
        turned = self._done - before
        if now < self._held_until or turned < self.limit:
            return
        rate = turned / (now - since)
        if self._step is not None and rate < WORTH * self._step.rate:
            self._set(self._step.limit)
            self._step = None
            self._held_until, self._hold = now + self._hold, min(2 * self._hold, LONGEST_HOLD)
        else:
            if self._step is not None:
                self._hold = HOLD
            self._step = _Step(self._level, rate, now + RESUME)
            self._set(self._level * GROWTH)
        self._measured_from = (now, self._done)

    def _set(self, level: float) -> None:
        self._level = min(max(level, self.floor), self.ceiling)
        self.limit = int(self._level)
        self._settled = self._done + self.limit

    def _start(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._late.clear()
        if self._level < self._cold:
            self._set(self._cold)  # what was learnt before the pause says nothing about now
        self._window_end, self._measured_from = now + WINDOW, (now, self._done)
        self._probe = loop.call_at(now + TICK, self._tick, loop, now + TICK)

    def _tick(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        now = loop.time()
        self._late.append(now - due)
        if now >= self._window_end:
            if self._peak == 0:
                self._probe = None  # idle: the next request starts it again
                return
            self.decide(sorted(self._late)[len(self._late) // 2], now)
            self._late.clear()
            self._window_end = now + WINDOW
        self._probe = loop.call_at(now + TICK, self._tick, loop, now + TICK)
