"""The process: what it prints, how it exits. Real signals, real environment.

Four processes run at once, for the sake of time; each test is about one thing that was seen.
"""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import pytest

from {{cookiecutter.package_name}}.__main__ import main

SECRET = "c0ffee" * 4 + "0123456789abcdef"
PROD = {"APP_JWT_SECRET": SECRET, "APP_JWT_ISSUER": "https://id.test", "APP_JWT_AUDIENCE": "api"}
COMMAND = [sys.executable, "-m", "{{cookiecutter.package_name}}"]
HERE = PROD | {"APP_HOST": "127.0.0.1", "APP_PORT": "0", "APP_DRAIN_DELAY": "0"}


def environment(**variables: str) -> dict[str, str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("APP_")}
    return clean | {"PYTHONPATH": str(Path("src").absolute())} | variables


@dataclass
class Process:
    """The service in a process of its own, and what it wrote until it ended."""

    popen: subprocess.Popen[str]
    stdout: str = ""
    stderr: str = ""

    @property
    def code(self) -> int:
        return self.popen.returncode

    def urls(self) -> list[str]:
        """Where it listens, once it does."""
        assert self.popen.stdout is not None
        self.stdout = self.popen.stdout.readline()
        return re.findall(r"http://[\d.:]+", self.stdout)

    def end(self, number: signal.Signals | None = None) -> None:
        if number is not None:
            self.popen.send_signal(number)
        out, self.stderr = self.popen.communicate(timeout=20)
        self.stdout += out


@contextmanager
def process(cwd: Path, command: Sequence[str] = COMMAND, **variables: str) -> Iterator[Process]:
    with subprocess.Popen(  # noqa: S603 - our own command
        command,
        env=environment(**variables),
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as popen:
        try:
            yield Process(popen)
        finally:
            popen.kill()


@dataclass
class Seen:
    terminated: Process
    interrupted: Process
    bare: Process
    late: Process
    taken: int
    statuses: list[int]
    not_http: str


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    cwd = tmp_path_factory.mktemp("empty")
    with ExitStack() as stack:
        taken = stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
        terminated, interrupted, bare, late = (
            stack.enter_context(process(cwd, **variables))
            for variables in (
                HERE | {"APP_ADMIN_PORT": "0"},
                HERE,
                {},
                HERE | {"APP_PORT": str(taken)},
            )
        )
        url, admin = terminated.urls()
        (other,) = interrupted.urls()
        statuses = []
        for probe in (f"{admin}/readyz", f"{other}/readyz"):
            with urlopen(probe) as response:  # noqa: S310 - a loopback URL
                statuses.append(response.status)
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(b"\x16\x03\x01 secret\r\n\r\n")
            not_http = b"".join(iter(lambda: connection.recv(4096), b"")).decode()
        terminated.end(signal.SIGTERM)
        interrupted.end(signal.SIGINT)
        bare.end()
        late.end()
        yield Seen(terminated, interrupted, bare, late, taken, statuses, not_http)


@pytest.mark.parametrize("which", ["terminated", "interrupted"])
def test_a_signal_ends_it_with_0(seen: Seen, which: str) -> None:
    ended: Process = getattr(seen, which)
    assert ended.code == 0
    assert '"msg":"stopped"' in ended.stdout
    assert "Traceback" not in ended.stdout + ended.stderr


def test_it_is_ready_and_on_the_admin_port_when_that_is_set(seen: Seen) -> None:
    assert seen.statuses == [200, 200]


def test_bytes_that_are_not_http_are_answered_like_any_other_error(seen: Seen) -> None:
    assert " 400 " in seen.not_http.splitlines()[0]
    assert "application/problem+json" in seen.not_http
    assert "Server:" not in seen.not_http
    assert "secret" not in seen.not_http + seen.terminated.stdout


def test_without_settings_it_says_what_is_missing_and_exits_2(seen: Seen) -> None:
    assert seen.bare.code == 2
    assert seen.bare.stdout == ""
    assert [line.split(":")[0] for line in seen.bare.stderr.splitlines()] == [
        "APP_JWT_SECRET",
        "APP_JWT_ISSUER",
        "APP_JWT_AUDIENCE",
    ]


def test_a_port_in_use_is_one_line_and_exit_1(seen: Seen) -> None:
    assert seen.late.code == 1
    (line,) = seen.late.stderr.splitlines()
    assert str(seen.taken) in line


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    monkeypatch.chdir(tmp_path)  # where there is no .env
    return monkeypatch


def test_each_wrong_setting_is_one_line_and_the_result_is_2(
    given: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = {"APP_JWT_SECRET": "short", "APP_PROT": "1", "APP_PORT": "http"}
    for name, value in (PROD | wrong).items():
        given.setenv(name, value)
    assert main([]) == 2
    names = [line.split(": ")[0] for line in capsys.readouterr().err.splitlines()]
    assert sorted(names) == sorted(wrong)


def test_a_token_is_printed_alone(
    given: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given.setenv("APP_ENV", "dev")
    given.setenv("APP_JWT_SECRET", SECRET)
    assert main(["token", "--sub", "alice", "--scope", "a b"]) == 0
    printed = capsys.readouterr().out
    assert printed.count(".") == 2
    assert printed.count("\n") == 1


@pytest.mark.parametrize("variables", [PROD, {"APP_ENV": "dev"}])
def test_a_token_that_would_be_refused_is_not_made(
    variables: dict[str, str], given: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in variables.items():
        given.setenv(name, value)
    assert main(["token"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_it_takes_more_connections_than_files_are_given_to_begin_with(tmp_path: Path) -> None:
    few = ["sh", "-c", 'ulimit -S -n 64 && exec "$@"', "sh", *COMMAND]
    with ExitStack() as stack:
        running = stack.enter_context(process(tmp_path, few, **HERE))
        (url,) = running.urls()
        host, port = url.removeprefix("http://").split(":")
        for _ in range(100):
            connection = socket.create_connection((host, int(port)), timeout=10)
            stack.enter_context(connection)
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: service\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")
        running.end(signal.SIGTERM)
    assert running.code == 0
