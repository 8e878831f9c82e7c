"""The image, built and run without a daemon: buildah builds it, chroot and setpriv run it.

Where the pinned base cannot be pulled, one made by debootstrap stands in; then the Dockerfile
is what is tested, not that base. What a daemon alone can show (health in `docker ps`, the limits of
a container) is not shown here.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Bake, Baked

pytestmark = pytest.mark.image
# As root in a container of its own: no user namespace, no overlay file system.
BUILDAH = {"STORAGE_DRIVER": "vfs", "BUILDAH_ISOLATION": "chroot"}
SETTINGS = {
    "APP_JWT_SECRET": "0123456789abcdef" * 2,
    "APP_JWT_ISSUER": "issuer",
    "APP_JWT_AUDIENCE": "audience",
    "APP_DRAIN_DELAY": "0",
    "APP_DOCS": "true",
}


def run(*command: str) -> str:
    done = subprocess.run(
        command, env=os.environ | BUILDAH, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]} {done.stderr[-2000:]}"
    return done.stdout.strip()


@pytest.fixture(scope="module")
def service(bake: Bake) -> Baked:
    for tool in ("buildah", "chroot", "unshare"):
        assert shutil.which(tool), f"{tool} is needed: apt-get install buildah coreutils util-linux"
    return bake()


@pytest.fixture(scope="module")
def base(service: Baked, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    pinned = re.findall(r"^ARG PYTHON=(.*)$", service.read("Dockerfile"), re.MULTILINE)[0]
    pull = ["buildah", "pull", "--quiet", pinned]
    if not subprocess.run(pull, env=os.environ | BUILDAH, check=False, timeout=300).returncode:
        yield pinned
        return
    print("THE PINNED BASE CANNOT BE PULLED: a Debian made by debootstrap stands in for it")
    root = tmp_path_factory.mktemp("debian")
    packages = "python3,python3-venv,python3-pip,ca-certificates"
    run("debootstrap", "--variant=minbase", f"--include={packages}", "bookworm", str(root))
    (root / "usr/bin/python").symlink_to("python3")
    container = run("buildah", "from", "scratch")
    run("buildah", "add", "--quiet", container, str(root), "/")
    run("buildah", "commit", "--quiet", "--rm", container, "localhost/python-base")
    shutil.rmtree(root)
    yield "localhost/python-base"
    run("buildah", "rmi", "localhost/python-base")


@pytest.fixture(scope="module")
def image(service: Baked, base: str) -> Iterator[dict[str, Any]]:
    """Its configuration, and under `root` its files."""
    certificates = "/etc/ssl/certs:/etc/ssl/certs:ro"  # of this machine, for its package index
    how = ["--network", "host", "--volume", certificates, "--format", "docker", "--pull-never"]
    run("buildah", "bud", *how, "--build-arg", f"PYTHON={base}", "-t", "svc", str(service.path))
    container = run("buildah", "from", "--pull-never", "svc")
    config = json.loads(run("buildah", "inspect", "--type", "image", "svc"))["Docker"]["config"]
    yield config | {"root": Path(run("buildah", "mount", container))}
    run("buildah", "rm", container)
    run("buildah", "rmi", "svc")


def inside(image: dict[str, Any], command: list[str], **settings: str) -> list[str]:
    """The command as the image's user, in its files, which are read-only, and nothing else set."""
    root, user = image["root"], image["User"]
    prepare = f'mount --bind {root} {root} && mount -o remount,ro,bind {root} && exec "$@"'
    env = [*image["Env"], *(f"{name}={value}" for name, value in settings.items())]
    chroot = ["chroot", f"--userspec={user}", "--groups=", str(root), "env", "-i", *env]
    return ["unshare", "--mount", "sh", "-c", prepare, "sh", *chroot, *command]


def test_it_runs_as_a_number_and_gets_the_signals_itself(image: dict[str, Any]) -> None:
    assert image["User"] == "10001:10001"
    assert image["Entrypoint"] == ["python", "-m", "my_service"]
    assert not image.get("Cmd")
    assert image["Healthcheck"]["Test"][0] == "CMD"


def test_it_holds_the_service_and_what_it_runs_on_alone(image: dict[str, Any]) -> None:
    app = image["root"] / "app"
    installed = {path.name for path in app.glob("lib/python3*/site-packages/*")}
    assert {"my_service", "aiohttp", "pydantic", "jwt"} <= installed
    assert not {"pip", "flit_core", "pytest", "mypy", "tests", "setuptools"} & installed
    assert not list(app.rglob(".env")) + list(app.rglob("conftest.py"))
    added = ["build", "requirements", "src", "wheels", "tests"]
    assert not [name for name in added if (image["root"] / name).exists()]
    owned = [path for path in app.rglob("*") if path.lstat().st_uid != 0]
    assert not owned  # by root, so that the service cannot change itself
    size = sum(p.stat().st_size for p in app.rglob("*") if p.is_file() and not p.is_symlink())
    print(f"added to the base: {size / 2**20:.0f} MiB")


def test_it_serves_is_healthy_and_drains(image: dict[str, Any]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    health = inside(image, image["Healthcheck"]["Test"][1:], APP_PORT=port)
    assert subprocess.run(health, capture_output=True, check=False).returncode != 0
    command = inside(image, image["Entrypoint"], **SETTINGS, APP_PORT=port)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert "listening on" in line, line
            assert subprocess.run(health, capture_output=True, check=False).returncode == 0
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/openapi.json") as answer:
                assert json.load(answer)["info"]["version"] == "0.1.0"
            started = time.monotonic()
            process.terminate()
            assert process.wait(timeout=30) == 0
            print(f"stopped after {time.monotonic() - started:.1f} s")
        finally:
            process.kill()
