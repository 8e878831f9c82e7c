"""Server noise: what any stranger can make a server log becomes short, rare and no error.

A malformed request is an ERROR with a traceback that holds its bytes, so is a client that leaves at
the wrong moment, and a process out of file descriptors logs a hundred tracebacks a second.

Wiring::

    for name in ("aiohttp.server", "asyncio"):
        logging.getLogger(name).addFilter(quiet_noise())

Needs: aiohttp>=3.14.4
Order: once, where logging is configured.
Not: fewer requests of the kind; it changes lines, and only those it knows.
"""

import errno
import logging
import time
from collections.abc import Callable
from traceback import walk_tb

from aiohttp import web
from aiohttp.http import HttpProcessingError

__all__ = ["quiet_noise"]

OUT_OF_FILES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def quiet_noise(
    *, every: float = 1.0, now: Callable[[], float] = time.monotonic
) -> Callable[[logging.LogRecord], bool]:
    """A logging filter: malformed requests become INFO, lost connections DEBUG, without traceback.

    Of malformed requests, and of the lack of descriptors (still an ERROR), one line passes `every`
    so many seconds, and says how many were left out before it. Other records pass untouched.
    """
    next_line: dict[str, float] = {}
    left_out: dict[str, int] = {}

    def sampled(record: logging.LogRecord, what: str, level: int) -> bool:
        if now() < next_line.get(what, 0.0):
            left_out[what] = left_out.get(what, 0) + 1
            return False
        next_line[what] = now() + every
        record.msg, record.args = "%s (%d more left out)", (what, left_out.pop(what, 0))
        record.levelno, record.levelname = level, logging.getLevelName(level)
        record.exc_info = record.exc_text = None
        return logging.getLogger(record.name).isEnabledFor(level)

    def passes(record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, (HttpProcessingError, web.RequestPayloadError)):
            return sampled(record, f"malformed request: {type(error).__name__}", logging.INFO)
        if isinstance(error, ConnectionError) and _left(error):
            return sampled(record, "a client left early", logging.DEBUG)
        if isinstance(error, OSError) and error.errno in OUT_OF_FILES:
            return sampled(record, "out of file descriptors, connections wait", logging.ERROR)
        return True

    return passes


def _left(error: ConnectionError) -> bool:
    """Whether the connection that the request came by is gone; aiohttp's own frames know it."""
    for frame, _ in walk_tb(error.__traceback__):
        protocol = frame.f_locals.get("self")
        if isinstance(protocol, web.RequestHandler):
            return protocol.transport is None or protocol.transport.is_closing()
    return False
