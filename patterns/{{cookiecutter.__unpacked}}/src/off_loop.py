"""Blocking work off the loop: in a few threads, behind a short queue, refused when both are full.

Called in a handler it stops every client and the health check; in asyncio's default executor it
queues without bound, beside the file and name look-ups that everything else waits for.

Wiring::

    pool = OffLoop(threads=4, queue=16)
    app.cleanup_ctx.append(pool.running)

    async def handler(request: web.Request) -> web.Response:
        return web.Response(body=await pool.run(render, "report"))

Needs: aiohttp>=3.14.4
Order: none; called by handlers.
Not: CPU-bound Python, which the interpreter's lock still keeps to one core: that wants processes.
    Nor an end to what has begun: a thread cannot be cancelled, so give the work its own timeout.
"""

import asyncio
import random
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import partial
from typing import ParamSpec, TypeVar

from aiohttp import hdrs, web

__all__ = ["OffLoop"]

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(kw_only=True, eq=False)
class OffLoop:
    """How many threads, and how many calls may wait for one. `in_use` counts both kinds."""

    threads: int = 4
    queue: int = 16
    grace: float = 5.0  # seconds at shutdown for what has begun
    in_use: int = field(default=0, init=False)
    refused: int = field(default=0, init=False)
    _executor: ThreadPoolExecutor | None = field(default=None, init=False)
    _idle: asyncio.Event = field(default_factory=asyncio.Event, init=False)

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `work` in a thread, in the caller's contextvars, and return or raise what it does.

        Raises 503 with `Retry-After` when as many are running and waiting as may. A caller that is
        cancelled leaves at once; its place is free when its work is, which may be later: what has
        not begun is dropped, what has begun still occupies a thread. Raises RuntimeError outside
        of `running`.
        """
        if self._executor is None:
            raise RuntimeError("append OffLoop.running to the application's cleanup_ctx")
        if self.in_use >= self.threads + self.queue:
            self.refused += 1
            seconds = str(random.randint(1, 5))  # noqa: S311  # no secret
            raise web.HTTPServiceUnavailable(
                text="The service has as much work as it can take; try again later.",
                headers={hdrs.RETRY_AFTER: seconds},
            )
        loop = asyncio.get_running_loop()
        future = self._executor.submit(copy_context().run, partial(work, *args, **kwargs))
        self.in_use += 1
        self._idle.clear()

        def done(_: Future[T]) -> None:
            # In whichever thread it ended. A closed loop has nobody left to count for.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._free)

        future.add_done_callback(done)
        return await asyncio.wrap_future(future)

    @asynccontextmanager
    async def running(self, app: web.Application) -> AsyncGenerator[None]:
        """Cleanup context: at its end what waits is dropped, and what runs has `grace` seconds."""
        self._executor = ThreadPoolExecutor(self.threads, thread_name_prefix="off-loop")
        try:
            yield
        finally:
            executor, self._executor = self._executor, None
            executor.shutdown(wait=False, cancel_futures=True)
            with suppress(TimeoutError):
                async with asyncio.timeout(self.grace if self.in_use else 0):
                    await self._idle.wait()

    def _free(self) -> None:
        self.in_use -= 1
        if not self.in_use:
            self._idle.set()
