"""The generated service as its owner meets it: installed, checked and run by its commands."""

import ast
import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import ROOT, Bake, Baked

COMMANDS = [
    "help",
    "install",
    "run",
    "test",
    "check",
    "token",
    "tour",
    "lock",
    "audit",
    "sbom",
    "clean",
]
UV = Path(sys.executable).with_name("uv")
PRODUCTION = {"APP_ENV": "prod", "APP_JWT_ISSUER": "issuer", "APP_JWT_AUDIENCE": "audience"}
SECRET = "0123456789abcdef" * 4


@dataclass(frozen=True)
class Installed:
    """A generated service whose environment is shared between runs of these tests."""

    baked: Baked
    venv: Path
    env: dict[str, str]

    def make(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        return self.baked.run("make", f"VENV={self.venv}", *arguments, **self.env, **env)

    def python(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        return self.baked.run(f"{self.venv}/bin/python", *arguments, **self.env, **env)


def path_with(uv: bool, folder: Path) -> str:
    """The PATH without any uv, or with the one of these tests before all else."""
    if uv:
        (folder / "uv").symlink_to(UV)
        return f"{folder}{os.pathsep}{os.environ['PATH']}"
    found = os.environ["PATH"].split(os.pathsep)
    return os.pathsep.join(entry for entry in found if not Path(entry, "uv").exists())


@pytest.fixture(
    scope="module",
    params=[
        ({}, "pip"),
        ({"example_api": False, "docker": False, "ci": "none"}, "uv"),
        ({"redis": True}, "uv"),
    ],
    ids=["default-pip", "bare-uv", "redis-uv"],
)
def service(
    request: pytest.FixtureRequest, bake: Bake, tmp_path_factory: pytest.TempPathFactory
) -> Installed:
    """Few combinations, by pip and by uv; a changed lock gets a new environment."""
    answers, installer = request.param
    baked = bake(fresh=True, **answers)
    lock = hashlib.sha256(baked.read("requirements/dev.txt").encode()).hexdigest()[:8]
    env = {"PATH": path_with(installer == "uv", tmp_path_factory.mktemp("bin"))}
    venv = ROOT / "build" / f"service-{installer}-{lock}"
    service = Installed(baked, venv, env | {"PYTHON": os.path.realpath(sys.executable)})
    done = service.make("install")
    assert done.returncode == 0, done.stdout + done.stderr
    assert ("uv pip install" in done.stdout) == (installer == "uv")
    return service


def test_make_check_is_green(service: Installed) -> None:
    started = time.monotonic()
    done = service.make("check")
    print(f"make check: {time.monotonic() - started:.0f} s")
    assert done.returncode == 0, done.stdout + done.stderr


def test_pyright_agrees_with_mypy_in_strict_mode(service: Installed) -> None:
    checker = str(Path(sys.executable).with_name("basedpyright"))
    done = service.baked.run(checker, "--pythonpath", f"{service.venv}/bin/python")
    assert done.returncode == 0, done.stdout + done.stderr


def test_installing_twice_does_nothing_the_second_time(service: Installed) -> None:
    assert "Nothing to be done" in service.make("install").stdout


def test_make_alone_lists_every_command(service: Installed) -> None:
    listed = re.findall(r"^make (\w+) +\S", service.make().stdout, re.MULTILINE)
    assert listed == COMMANDS


def test_the_readme_lists_exactly_the_settings_there_are(service: Installed) -> None:
    code = "from my_service.settings import Settings; print(*Settings.model_fields)"
    fields = service.python("-c", code).stdout.split()
    listed = re.findall(r"^\| `APP_(\w+)` \|", service.baked.read("README.md"), re.MULTILINE)
    assert sorted(listed) == sorted(name.upper() for name in fields)


def test_a_token_is_all_that_make_token_prints(service: Installed) -> None:
    for command in (["token"], ["-s", "token", "SUB=ada", "SCOPE=one two"]):
        done = service.make(*command)
        assert re.fullmatch(r"[\w-]+\.[\w-]+\.[\w-]+\n", done.stdout), done.stdout + done.stderr


def test_a_service_generated_without_hooks_runs(service: Installed) -> None:
    env_file = service.baked.path / ".env"
    env_file.unlink()
    with running(service) as base:
        token = service.make("-s", "token").stdout.strip()
        assert whoami_or_history(base, token) == 200
    assert env_file.stat().st_mode & 0o777 == 0o600
    secret = env_file.read_text()
    assert service.make("-s", "token").returncode == 0
    assert env_file.read_text() == secret


@contextlib.contextmanager
def running(service: Installed) -> Iterator[str]:
    """`make run` on a free port, answering; interrupted as Ctrl-C would."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    process = subprocess.Popen(
        ["make", f"VENV={service.venv}", "run"],
        cwd=service.baked.path,
        env={**os.environ, **service.env, "APP_PORT": port},
        start_new_session=True,
    )
    base = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            assert process.poll() is None
            with contextlib.suppress(OSError):
                if status(f"{base}/readyz") == 200:
                    break
            time.sleep(0.1)
        yield base
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
        process.wait(20)


def status(url: str, token: str | None = None) -> int:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(url, headers=headers)  # noqa: S310
    with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310
        return int(response.status)


def whoami_or_history(base: str, token: str) -> int:
    try:
        return status(f"{base}/api/v1/whoami", token)
    except urllib.error.HTTPError as error:
        error.close()
        return status(f"{base}/api/v1/rooms/lobby/messages", token)


def example_secret(service: Installed) -> str:
    found = re.search(r"^APP_JWT_SECRET=(.+)$", service.baked.read(".env.example"), re.MULTILINE)
    assert found
    return found[1]


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({}, "APP_JWT_SECRET"),
        ({"APP_JWT_SECRET": "example"}, "APP_JWT_SECRET"),
        ({"APP_JWT_SECRET": "Sh0rt"}, "APP_JWT_SECRET"),
        ({"APP_JWT_SECRET": SECRET, "APP_LOG_LEVLE": "info"}, "APP_LOG_LEVLE"),
    ],
    ids=["no secret", "the example's secret", "a short secret", "a typo"],
)
def test_a_bad_configuration_is_one_line_and_exit_2(
    wrong: dict[str, str], named: str, service: Installed
) -> None:
    if wrong.get("APP_JWT_SECRET") == "example":
        wrong = {"APP_JWT_SECRET": example_secret(service)}
    done = service.python("-m", "my_service", **PRODUCTION, **wrong)
    told = (done.stdout + done.stderr).splitlines()
    assert (done.returncode, len(told)) == (2, 1), told
    assert named in told[0]


def test_a_port_in_use_is_one_line_and_exit_1(service: Installed) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        env = {"APP_ENV": "dev", "APP_PORT": port, "APP_LOG_LEVEL": "error"}
        done = service.python("-m", "my_service", **env)
    told = (done.stdout + done.stderr).splitlines()
    assert (done.returncode, len(told)) == (1, 1), told
    assert port in told[0]


def test_no_package_can_take_the_name_of_what_is_installed(service: Installed) -> None:
    code = "import importlib.metadata as m, json; print(json.dumps(m.packages_distributions()))"
    found: dict[str, list[str]] = json.loads(service.python("-c", code).stdout)
    names = {dist for dists in found.values() for dist in dists} | set(found)
    names = {name.lower().replace("-", "_") for name in names if re.match(r"[A-Za-z]", name)}
    hook = ast.parse((ROOT / "hooks" / "pre_gen_project.py").read_text())
    (taken,) = (
        node.value
        for node in hook.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "TAKEN"
    )
    reserved = eval(ast.unparse(taken))  # noqa: S307 # an expression of the template's own
    names = {name for name in names if not re.search(r"__mypyc$|^a\d_coverage$", name)}
    assert sorted(names - reserved - {"my_service"}) == []


def test_make_clean_leaves_what_was_generated(service: Installed, bake: Bake) -> None:
    shutil.copytree(service.baked.path / "src", service.baked.path / "build")
    assert service.baked.run("make", "clean").returncode == 0
    left = {str(p.relative_to(service.baked.path)) for p in service.baked.path.rglob("*")}
    fresh = bake(fresh=True, **json.loads(service.baked.read(".answers.json"))).path
    assert left == {str(path.relative_to(fresh)) for path in fresh.rglob("*")}
