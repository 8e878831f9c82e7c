"""Application logs as JSON lines (or short console lines), with the ids of the request at hand.

A `%(message)s` between braces is not JSON: quotes and line ends break it and exceptions vanish.
This sets up the root logger once, for the whole process, with one line a record.

Wiring::

    configure_logging(level="info", write=sys.stdout.buffer.write, encode=json_line)
    logging.getLogger("billing").info("charged %s", "42 EUR", extra={"invoice": 7})

Needs: pydantic-core>=2.41
Order: call it before anything logs; it replaces the handlers of the root logger.
Not: a queue or a file. Write to a pipe that is read: a stalled reader stalls the event loop.
"""

import contextlib
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from pydantic_core import to_json

__all__ = ["configure_logging", "console_line", "json_line"]

# What every LogRecord has; anything else came by `extra=` and belongs into the line.
STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime"}
COLOURS = {"warning": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[31m"}


def json_line(fields: Mapping[str, object]) -> bytes:
    """One line of JSON; values that JSON does not know are written as their `str()`."""
    return to_json(fields, fallback=str) + b"\n"


def console_line(fields: Mapping[str, object]) -> bytes:
    """The same fields for a person: time, level, message, then `name=value`."""
    rest = dict(fields)
    ts, level, msg = rest.pop("ts"), str(rest.pop("level")), rest.pop("msg")
    trace = rest.pop("exception", None)
    time = f"{ts.astimezone():%H:%M:%S}" if isinstance(ts, datetime) else str(ts)
    pairs = " ".join(f"{k}={v}" for k, v in rest.items() if v not in (None, ""))
    # A line end or an escape sequence in a value must not forge a line or drive the terminal.
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in f"{msg}  {pairs}".rstrip())
    colour, reset = (COLOURS[level], "\x1b[0m") if level in COLOURS else ("", "")
    line = f"{time} {colour}{level:<7}{reset} {text}"
    return (f"{line}\n{trace}\n" if trace else f"{line}\n").encode(errors="backslashreplace")


def configure_logging(
    *,
    level: str,
    write: Callable[[bytes], object],
    encode: Callable[[Mapping[str, object]], bytes] = json_line,
    context: Callable[[], Mapping[str, object]] = dict,
) -> None:
    """Send every record of `level` and above through `encode` to `write`, one call a record.

    `context` is asked for each record, in the task that logs, and its members (a request id) are
    added. A `write` that fails is ignored: losing a line must not fail the code that logs it.
    """
    handler = _Lines(write, encode, context)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(capture=True)


class _Lines(logging.Handler):
    def __init__(
        self,
        write: Callable[[bytes], object],
        encode: Callable[[Mapping[str, object]], bytes],
        context: Callable[[], Mapping[str, object]],
    ) -> None:
        super().__init__()
        self._write, self._encode, self._context = write, encode, context

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self._encode(self._fields(record))
        except Exception:  # logging's own rule: a bad record is reported, not raised
            self.handleError(record)
            return
        with contextlib.suppress(OSError):
            self._write(line)

    def _fields(self, record: logging.LogRecord) -> dict[str, object]:
        line: dict[str, object] = {
            "ts": datetime.fromtimestamp(record.created, UTC),
            "level": record.levelname.lower(),
            "msg": record.getMessage(),
            "logger": record.name,
            **self._context(),
            **{k: v for k, v in record.__dict__.items() if k not in STANDARD},
        }
        if record.exc_info:
            line["exception"] = logging.Formatter().formatException(record.exc_info)
        return line
