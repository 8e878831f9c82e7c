"""The service on the lowest and on the latest versions that it declares: slow, `make ends`.

Resolved anew from `pyproject.toml`, without the locks, by whatever the index has today.
"""

import sys
import time
from pathlib import Path

import pytest
from conftest import Bake

pytestmark = pytest.mark.matrix
UV = str(Path(sys.executable).with_name("uv"))
NAMES = ("aiohttp", "pydantic", "pydantic-core", "pytest", "pytest-aiohttp")


@pytest.mark.parametrize("redis", [False, True], ids=["memory", "redis"])
@pytest.mark.parametrize("resolution", ["lowest-direct", "highest"])
def test_the_service_passes_its_tests(
    resolution: str, redis: bool, bake: Bake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service = bake(fresh=True, redis=redis)
    python = str(tmp_path / "venv" / "bin" / "python")
    install = (UV, "pip", "install", "--quiet", "--python", python, "--resolution", resolution)
    for command in (
        (UV, "venv", "--quiet", "--python", sys.executable, str(tmp_path / "venv")),
        (*install, "--group", "dev", "--editable", "."),
    ):
        done = service.run(*command)
        assert done.returncode == 0, done.stdout + done.stderr
    found = service.run(UV, "pip", "freeze", "--python", python).stdout.splitlines()
    pins = " ".join(pin for pin in found if pin.split("==")[0] in NAMES)
    began = time.monotonic()
    done = service.run(python, "-m", "pytest")
    with capsys.disabled():
        taken = time.monotonic() - began
        print(f"\n{resolution}, {'redis' if redis else 'memory'}: {taken:.0f} s with {pins}")
    assert done.returncode == 0, done.stdout + done.stderr
