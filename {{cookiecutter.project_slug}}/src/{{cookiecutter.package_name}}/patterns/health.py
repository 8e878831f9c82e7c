"""Health: liveness says "do not restart me", readiness says "send me traffic". Two questions.

One `/health` for both either restarts a service because its database is away, or keeps sending
traffic to one that is shutting down.

Wiring::

    app.router.add_get("/livez", livez)
    app.router.add_get("/readyz", readyz({"database": lambda: True}))

Needs: aiohttp>=3.14.4
Order: outside backpressure, auth and the info log (mark or exempt both routes).
Not: a monitor. Checks are asked, not run: each answers at once from what it already knows.
"""

from collections.abc import Callable, Mapping, Sequence

from aiohttp import web
from aiohttp.typedefs import Handler

__all__ = ["livez", "readyz"]


async def livez(request: web.Request) -> web.Response:
    """200 for as long as the event loop turns."""
    return web.json_response({"status": "ok"})


def readyz(checks: Mapping[str, Callable[[], bool]]) -> Handler:
    """A handler that is 200 while every check holds and 503 when one does not.

    Each check is called on every probe and must not wait; one that raises counts as failed. The
    503 carries the names of the failed ones as `problem`, for an errors middleware to show.
    """

    async def ready(request: web.Request) -> web.Response:
        """200 while the service wants traffic."""
        failed = [name for name, check in checks.items() if not _holds(check)]
        if failed:
            raise _Unready(failed)
        return web.json_response({"status": "ready"})

    return ready


class _Unready(web.HTTPServiceUnavailable):
    def __init__(self, failed: Sequence[str]) -> None:
        super().__init__(text=f"not ready: {', '.join(failed)}", headers={"Retry-After": "1"})
        self.problem = {"failed": failed}


def _holds(check: Callable[[], bool]) -> bool:
    try:
        return check()
    except Exception:  # a probe that cannot tell is a probe that failed
        return False
