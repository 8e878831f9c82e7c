"""Loop watch: how late the event loop runs, and the name of the route that blocks it.

One handler that computes, or waits without `await`, stops all others, and health checks. Another
thread can look while that happens: it reads the stack of the loop, and requests pay nothing.

Wiring::

    lag = LoopLag()
    app.cleanup_ctx.append(watch_loop(lag))

Needs: aiohttp>=3.14.4
Order: a cleanup context, the first of them. Show `lag.worst` and `lag.blocked` as metrics.
Not: a profiler. Of code that holds the interpreter's lock throughout (a regular expression, say)
    the stack is read just after; short blocks in a row are `lag.worst`, not a warning.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from sys import _current_frames  # pyright: ignore[reportPrivateUsage]  # documented all the same
from threading import get_ident
from types import FrameType

from aiohttp import web

__all__ = ["LoopLag", "watch_loop"]

logger = logging.getLogger(__name__)


class LoopLag:
    """Numbers for gauges: `worst` is the longest delay of the last beats, in seconds."""

    def __init__(self, beats: int = 150) -> None:
        self.recent = deque([0.0], maxlen=beats)
        self.beat = time.monotonic()
        self.blocked = 0

    @property
    def worst(self) -> float:
        return max(self.recent)


def watch_loop(
    lag: LoopLag, *, every: float = 0.1, warn_after: float = 0.25, quiet: float = 10.0
) -> Callable[[web.Application], AbstractAsyncContextManager[None]]:
    """Measure the delay `every` so many seconds; warn of a block longer than `warn_after`.

    There is one line a block at most, and none for `quiet` seconds after another; all are counted.
    """

    @asynccontextmanager
    async def watched(app: web.Application) -> AsyncGenerator[None]:
        stop = threading.Event()
        lag.beat = time.monotonic()
        beats = asyncio.create_task(_beat(lag, every))
        watcher = threading.Thread(target=look, args=(stop, get_ident()), daemon=True)
        watcher.start()
        try:
            yield
        finally:
            beats.cancel()
            stop.set()
            watcher.join()

    def look(stop: threading.Event, loop_thread: int) -> None:
        seen, silent_until = 0.0, 0.0
        while not stop.wait(every):
            beat, now = lag.beat, time.monotonic()
            if now - beat < warn_after + every or beat == seen:
                continue
            seen = beat
            lag.blocked += 1
            if now >= silent_until:
                silent_until = now + quiet
                who = _who(_current_frames()[loop_thread])
                logger.warning("event loop blocked for %.2f s by %s", now - beat, who)

    return watched


async def _beat(lag: LoopLag, every: float) -> None:
    loop = asyncio.get_running_loop()
    while True:
        lag.beat, due = time.monotonic(), loop.time() + every
        await asyncio.sleep(every)
        lag.recent.append(max(0.0, loop.time() - due))


def _who(frame: FrameType) -> str:
    """The route of the request that is found furthest in, and the place in the code."""
    where = f"{frame.f_code.co_qualname} ({frame.f_code.co_filename}:{frame.f_lineno})"
    caller: FrameType | None = frame
    while caller is not None:
        request = caller.f_locals.get("request")
        if isinstance(request, web.Request):
            with suppress(AssertionError, AttributeError):  # not routed yet
                resource = request.match_info.route.resource
                return f"{resource.canonical if resource else 'no route'}, in {where}"
        caller = caller.f_back
    return f"no route, in {where}"
