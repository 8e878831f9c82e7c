"""The process: what it prints, how it exits. Real signals, real environment."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import pytest

SECRET = "c0ffee" * 4 + "0123456789abcdef"
PROD = {"APP_JWT_SECRET": SECRET, "APP_JWT_ISSUER": "https://id.test", "APP_JWT_AUDIENCE": "api"}
COMMAND = [sys.executable, "-m", "{{cookiecutter.package_name}}"]


def environment(**variables: str) -> dict[str, str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("APP_")}
    return clean | {"PYTHONPATH": str(Path("src").absolute())} | variables


def run(*arguments: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - our own command
        [*COMMAND, *arguments],
        env=environment(**variables),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


@contextmanager
def running(cwd: Path, **variables: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    given = environment(**PROD | {"APP_PORT": "0", "APP_HOST": "127.0.0.1"} | variables)
    with subprocess.Popen(  # noqa: S603 - our own command
        COMMAND, env=given, cwd=cwd, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            yield process, "http://127.0.0.1:" + line.split("http://127.0.0.1:")[1].split('"')[0]
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_0(tmp_path: Path, number: signal.Signals) -> None:
    with running(tmp_path, APP_DRAIN_DELAY="0") as (process, url):
        with urlopen(f"{url}/livez") as response:  # noqa: S310 - a loopback URL
            assert response.status == 200
        process.send_signal(number)
        output, _ = process.communicate(timeout=10)
    assert process.returncode == 0
    assert '"msg":"stopped"' in output
    assert "Traceback" not in output


def test_without_settings_it_says_what_is_missing_and_exits_2(tmp_path: Path) -> None:
    done = run(cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == [
        "APP_JWT_SECRET",
        "APP_JWT_ISSUER",
        "APP_JWT_AUDIENCE",
    ]


def test_each_wrong_setting_is_one_line_and_the_exit_is_2(tmp_path: Path) -> None:
    wrong = {"APP_JWT_SECRET": "short", "APP_PROT": "1", "APP_PORT": "http"}
    done = run(cwd=tmp_path, **PROD | wrong)
    assert done.returncode == 2
    names = [line.split(": ")[0] for line in done.stderr.splitlines()]
    assert sorted(names) == sorted(wrong)


def test_a_port_in_use_is_one_line_and_exit_1(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run(cwd=tmp_path, **PROD, APP_HOST="127.0.0.1", APP_PORT=port)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert port in line


def test_a_token_is_printed_alone(tmp_path: Path) -> None:
    given = {"APP_ENV": "dev", "APP_JWT_SECRET": SECRET}
    done = run("token", "--sub", "alice", "--scope", "a b", cwd=tmp_path, **given)
    assert done.returncode == 0
    assert done.stdout.count(".") == 2
    assert done.stdout.count("\n") == 1


@pytest.mark.parametrize("given", [PROD, {"APP_ENV": "dev"}])
def test_a_token_that_would_be_refused_is_not_made(tmp_path: Path, given: dict[str, str]) -> None:
    done = run("token", cwd=tmp_path, **given)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


def test_bytes_that_are_not_http_are_answered_like_any_other_error(tmp_path: Path) -> None:
    with running(tmp_path, APP_DRAIN_DELAY="0") as (process, url):
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(b"\x16\x03\x01 secret\r\n\r\n")
            answer = b"".join(iter(lambda: connection.recv(4096), b"")).decode()
        process.terminate()
        output, _ = process.communicate(timeout=10)
    assert " 400 " in answer.splitlines()[0]
    assert "application/problem+json" in answer
    assert "Server:" not in answer
    assert "secret" not in answer + output
    assert "Traceback" not in output


def test_health_and_metrics_move_to_the_admin_port(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with (
        running(tmp_path, APP_ADMIN_PORT=str(port)),
        urlopen(f"http://127.0.0.1:{port}/readyz") as response,
    ):
        assert response.status == 200
