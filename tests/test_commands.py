"""The commands that a service prints for people without make, and for agents: each is run."""

import contextlib
import http.server
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import Bake, Baked

TOOLS = ("find", "rm", "sh")


def readme_commands(readme: str) -> dict[str, list[str]]:
    """The README's commands for people without make, by the target that they stand for."""
    block = re.search(r"^Without make:\n\n```sh\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    assert block
    found: dict[str, list[str]] = {}
    for line in block[1].splitlines():
        if line.startswith("# "):
            found[line.removeprefix("# ")] = []
        else:
            [*found.values()][-1].append(line)
    return found


def agents_commands(text: str) -> list[str]:
    lines = re.findall(r"^    (\S.*)$", text, re.MULTILINE)
    return [re.sub(r"\s+# .*", "", line) for line in lines]


@dataclass(frozen=True)
class Shell:
    """A shell in the service's folder that finds the given tools and Python, nothing else."""

    service: Baked
    path: str
    port: str

    @property
    def env(self) -> dict[str, str]:
        return {**os.environ, "PATH": self.path, "APP_PORT": self.port}

    def run(self, command: str, **env: str) -> subprocess.CompletedProcess[str]:
        command = command.replace(":8080", f":{self.port}")
        return subprocess.run(
            ["/bin/sh", "-ec", command],
            cwd=self.service.path,
            env=self.env | env,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )

    @contextlib.contextmanager
    def serving(self, command: str) -> Iterator[str]:
        """The command in the background, until its service answers; then interrupted as Ctrl-C."""
        process = subprocess.Popen(
            ["/bin/sh", "-ec", command],
            cwd=self.service.path,
            env=self.env,
            start_new_session=True,
        )
        base = f"http://127.0.0.1:{self.port}"
        try:
            for _ in range(300):
                assert process.poll() is None
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(f"{base}/readyz", timeout=5).close()  # noqa: S310
                    break
                time.sleep(0.1)
            yield base
        finally:
            os.killpg(process.pid, signal.SIGINT)
            process.wait(30)


@pytest.fixture(scope="module")
def without_make(bake: Bake, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """A service installed by its README's commands, where there is neither make nor uv."""
    tools = tmp_path_factory.mktemp("bin")
    for tool in TOOLS:
        (tools / tool).symlink_to(shutil.which(tool) or tool)
    (tools / "python3").symlink_to(os.path.realpath(sys.executable))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shell = Shell(bake(fresh=True), str(tools), port)
    assert not any(shutil.which(tool, path=shell.path) for tool in ("make", "uv"))
    for command in readme_commands(shell.service.read("README.md"))["install"]:
        succeed(shell, command)
    return shell


@pytest.fixture
def with_make(without_make: Shell) -> Shell:
    return Shell(without_make.service, os.environ["PATH"], without_make.port)


@pytest.fixture(scope="module")
def advisories() -> Iterator[dict[str, str]]:
    """A vulnerability service on loopback that knows one bad version; the settings that name it."""

    class Advisories(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            names.append(asked["package"]["name"])
            body = json.dumps({"vulns": []}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    names: list[str] = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Advisories)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}/v1/query"
    yield {"PIP_AUDIT_VULNERABILITY_SERVICE": "osv", "PIP_AUDIT_OSV_URL": url}
    server.shutdown()
    thread.join()
    server.server_close()
    assert "aiohttp" in names


def succeed(shell: Shell, command: str, **env: str) -> str:
    done = shell.run(command, **env)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def recipe(service: Baked, target: str) -> list[str]:
    """The commands that make would run, without those that only make itself needs."""
    path = os.pathsep.join(
        folder for folder in os.environ["PATH"].split(os.pathsep) if not Path(folder, "uv").exists()
    )
    done = service.run("make", "--dry-run", target, PATH=path)
    assert done.returncode == 0, done.stderr
    quiet = re.compile(r" --quiet(?! --upgrade)| --disable-pip-version-check| >&2")
    lines = [quiet.sub("", line) for line in done.stdout.splitlines()]
    return [line for line in lines if not line.startswith(("touch ", "python3 -c "))]


@pytest.mark.parametrize("answers", [{}, {"example_api": False, "redis": True}])
def test_each_target_has_its_commands_without_make(answers: dict[str, object], bake: Bake) -> None:
    service = bake(fresh=True, **answers)
    printed = readme_commands(service.read("README.md"))
    listed = re.findall(r"^\| `make (\w+)`", service.read("README.md"), re.MULTILINE)
    assert [*printed] == listed
    assert recipe(service, "install") == printed.pop("install")
    (service.path / ".venv").mkdir()
    (service.path / ".venv" / ".installed").touch()
    assert {target: recipe(service, target) for target in printed} == printed


@pytest.mark.parametrize("target", ["check", "test", "token", "sbom", "lock"])
def test_the_commands_without_make_succeed(target: str, without_make: Shell) -> None:
    few = {"PYTEST_ADDOPTS": "-k order --cov-fail-under=0"}  # `make check` below runs all of them
    for command in readme_commands(without_make.service.read("README.md"))[target]:
        told = succeed(without_make, command, **few if "pytest" in command else {})
    if target == "token":
        assert re.fullmatch(r"[\w-]+\.[\w-]+\.[\w-]+\n", told)
    if target == "sbom":
        assert_bill_of_materials(without_make.service)


def test_the_service_runs_and_shows_itself_without_make(without_make: Shell) -> None:
    commands = readme_commands(without_make.service.read("README.md"))
    (run,), (tour,) = commands["run"], commands["tour"]
    with without_make.serving(run):
        assert "503" in succeed(without_make, tour)


def test_the_audit_runs_without_make(without_make: Shell, advisories: dict[str, str]) -> None:
    for command in readme_commands(without_make.service.read("README.md"))["audit"]:
        succeed(without_make, command, **advisories)


def test_every_command_for_agents_succeeds(with_make: Shell, advisories: dict[str, str]) -> None:
    commands = agents_commands(with_make.service.read("AGENTS.md"))
    assert len(commands) == len({*commands}) > 10
    commands.remove("make check")  # a minute, and test_generated.py runs it thrice
    before, after = commands[: commands.index("make run")], commands[commands.index("make run") :]
    for command in before:
        succeed(with_make, command)
    with with_make.serving(after.pop(0)):
        for command in after:
            succeed(with_make, command, **advisories)
    assert_bill_of_materials(with_make.service)


def test_cleaning_without_make_leaves_what_was_generated(without_make: Shell) -> None:
    service = without_make.service
    for command in readme_commands(service.read("README.md"))["clean"]:
        succeed(without_make, command)
    left = {file for file in service.path.rglob("*") if file.is_file()}
    assert left == {service.path / name for name in [*service.tree(), ".env"]}


def assert_bill_of_materials(service: Baked) -> None:
    bill = json.loads(service.read("build/sbom.json"))
    locked = re.findall(
        r"^([a-z0-9-]+)==([\w.]+)", service.read("requirements/run.txt"), re.MULTILINE
    )
    assert {(part["name"], part["version"]) for part in bill["components"]} == {*locked}
    assert bill["metadata"]["component"]["name"] == "my-service"
