import json
import logging
import sys
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from textwrap import dedent
from typing import Any

import pytest

from {{cookiecutter.package_name}}.patterns import json_logging as pattern
from {{cookiecutter.package_name}}.patterns.json_logging import (
    configure_logging,
    console_line,
    json_line,
)

logger = logging.getLogger("billing")


@pytest.fixture(autouse=True)
def root_logger() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    logging.captureWarnings(capture=False)
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def lines() -> list[Any]:
    collected: list[Any] = []
    configure_logging(
        level="info",
        write=lambda line: collected.append(json.loads(line)),
        context=lambda: {"request_id": "r1"},
    )
    return collected


def test_a_record_becomes_one_object_with_its_extras_and_context(lines: list[Any]) -> None:
    logger.info('said "%s"\n', "hi", extra={"invoice": 7})
    (line,) = lines
    assert datetime.fromisoformat(line.pop("ts")).tzinfo == UTC
    assert line == {
        "level": "info",
        "msg": 'said "hi"\n',
        "logger": "billing",
        "request_id": "r1",
        "invoice": 7,
    }


def test_an_exception_is_part_of_its_line(lines: list[Any]) -> None:
    try:
        int("gone")
    except ValueError:
        logger.exception("failed")
    assert "ValueError: invalid literal" in lines[0]["exception"]


def test_records_below_the_level_are_left_out(lines: list[Any]) -> None:
    logger.debug("detail")
    assert lines == []


def test_warnings_are_logged(lines: list[Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=True)
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    assert lines[0]["logger"] == "py.warnings"


def test_a_value_unknown_to_json_is_written_as_text(lines: list[Any]) -> None:
    logger.info("at", extra={"place": object})
    assert lines[0]["place"] == "<class 'object'>"


def test_a_record_that_cannot_be_formatted_is_reported_and_not_raised(
    lines: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    ours = next(h for h in logging.getLogger().handlers if isinstance(h, pattern._Lines))
    ours.handle(logging.LogRecord("billing", logging.INFO, "x.py", 1, "%d", ("no number",), None))
    assert lines == []
    assert "Logging error" in capsys.readouterr().err


def test_a_closed_pipe_fails_no_caller() -> None:
    def closed(_: bytes) -> None:
        raise BrokenPipeError

    configure_logging(level="info", write=closed)
    logger.info("lost")


def line(**fields: object) -> str:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    return console_line({"ts": at, "level": "info", "msg": "hello"} | fields).decode()


def test_the_console_shows_time_level_message_and_pairs() -> None:
    assert line(port=8080, empty=None).endswith("info    hello  port=8080\n")


def test_the_console_colours_errors_and_appends_the_traceback() -> None:
    text = line(level="error", exception="Traceback ...")
    assert "\x1b[31merror" in text
    assert text.endswith("hello\nTraceback ...\n")


def test_no_value_forges_a_line_or_drives_the_terminal() -> None:
    assert line(path="/a\nb\x1b[2J").endswith(r"path=/a\nb\x1b[2J" + "\n")


def test_the_wiring_in_the_docstring_works(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    wiring = (pattern.__doc__ or "").split("Wiring::")[1].split("Needs:")[0]
    names = {"configure_logging": configure_logging, "json_line": json_line}
    exec(dedent(wiring), names | {"logging": logging, "sys": sys})  # noqa: S102
    sys.stdout.flush()
    assert json.loads(capfdbinary.readouterr().out)["invoice"] == 7
