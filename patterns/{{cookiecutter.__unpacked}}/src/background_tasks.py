"""Background tasks: work that outlives its request, but neither its reference nor the process.

A bare `create_task` may be collected while it runs, hides its exception until then or for ever, is
cut off at shutdown, and nothing says how many there are.

Wiring::

    background = BackgroundTasks(limit=100)
    app.cleanup_ctx.append(background.running)

    async def handler(request: web.Request) -> web.Response:
        background.start("receipt", send_receipt, "order 7")
        return web.Response(status=202)

Needs: aiohttp>=3.14.4
Order: after the contexts whose resources the tasks use (contexts close in reverse).
Not: durable. What must survive a crash belongs in a queue outside the process.
"""

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import ParamSpec

from aiohttp import hdrs, web

__all__ = ["BackgroundTasks"]

P = ParamSpec("P")
Work = Callable[P, Coroutine[object, object, object]]
Task = asyncio.Task[object]

logger = logging.getLogger(__name__)


@dataclass(kw_only=True, eq=False)
class BackgroundTasks:
    """At most `limit` tasks at once. `failed` counts those that raised."""

    limit: int = 100
    grace: float = 5.0  # seconds at shutdown for tasks to finish, before they are cancelled
    last: float = 1.0  # seconds that cancelled tasks have to clean up
    failed: int = field(default=0, init=False)
    _tasks: set[Task] = field(default_factory=set[Task], init=False)
    _endless: set[Task] = field(default_factory=set[Task], init=False)
    _open: bool = field(default=False, init=False)

    @property
    def names(self) -> list[str]:
        """What is running, for a gauge or a debugger."""
        return sorted(task.get_name() for task in self._tasks | self._endless)

    def start(self, name: str, work: Work[P], *args: P.args, **kwargs: P.kwargs) -> Task:
        """Start what ends by itself; it goes on when the request that started it ends.

        Raises 503 with `Retry-After`, and calls nothing, when `limit` tasks are running or the
        application is stopping.
        """
        if len(self._tasks) >= self.limit or not self._open:
            seconds = str(random.randint(1, 5))  # noqa: S311  # no secret
            raise web.HTTPServiceUnavailable(
                text="The service has as much work as it can take; try again later.",
                headers={hdrs.RETRY_AFTER: seconds},
            )
        return self._create(self._tasks, work(*args, **kwargs), name)

    def start_endless(self, name: str, work: Work[P], *args: P.args, **kwargs: P.kwargs) -> Task:
        """Start what runs for as long as the application (a consumer, a refresher).

        It does not count for `limit`, and shutdown cancels it at once. Call it in `on_startup` or
        a later cleanup context. Raises RuntimeError outside of `running`.
        """
        if not self._open:
            raise RuntimeError("append BackgroundTasks.running to the application's cleanup_ctx")
        return self._create(self._endless, work(*args, **kwargs), name)

    @asynccontextmanager
    async def running(self, app: web.Application) -> AsyncGenerator[None]:
        """Cleanup context: at its end nothing new starts, and after `grace` + `last` none is left.

        A task that swallows its cancellation is left behind with an error in the log.
        """
        self._open = True
        try:
            yield
        finally:
            self._open = False
            endless = set(self._endless)
            for task in endless:
                task.cancel()
            late = await self._wait(set(self._tasks), self.grace)
            for task in late:
                logger.warning("background task %s is cancelled by shutdown", task.get_name())
                task.cancel()
            for task in await self._wait(late | endless, self.last):
                logger.error("background task %s does not end", task.get_name())

    def _create(self, group: set[Task], work: Coroutine[object, object, object], name: str) -> Task:
        task: Task = asyncio.create_task(work, name=name)
        group.add(task)  # the loop itself holds tasks only weakly

        def done(task: Task) -> None:
            group.discard(task)
            if not task.cancelled() and (error := task.exception()) is not None:
                self.failed += 1
                logger.error("background task %s failed", name, exc_info=error)

        task.add_done_callback(done)
        return task

    @staticmethod
    async def _wait(tasks: set[Task], seconds: float) -> set[Task]:
        return (await asyncio.wait(tasks, timeout=seconds))[1] if tasks else set()
