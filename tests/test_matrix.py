"""Each supported Python, with uv and without, from an empty environment: slow, `make matrix`."""

import os
import shutil
import time
from pathlib import Path

import pytest
from conftest import Bake
from test_generated import Installed, path_with, running, status

pytestmark = pytest.mark.matrix
PYTHONS = os.environ.get("PYTHONS", "python3.11 python3.12 python3.13").split()


@pytest.mark.parametrize(
    "answers",
    [{}, {"example_api": False, "redis": True, "docker": False, "ci": "none"}],
    ids=["default", "the other answers"],
)
@pytest.mark.parametrize("uv", [True, False], ids=["uv", "pip"])
@pytest.mark.parametrize("python", PYTHONS)
def test_run_and_test_pass_from_nothing(
    python: str, uv: bool, answers: dict[str, object], bake: Bake, tmp_path: Path
) -> None:
    (tmp_path / "bin").mkdir()
    baked = bake(fresh=True, **answers)
    env = {"PATH": path_with(uv, tmp_path / "bin"), "PYTHON": python}
    service = Installed(baked, baked.path / ".venv", env)
    started = time.monotonic()
    done = service.make("test")
    print(f"first make test: {time.monotonic() - started:.0f} s")
    assert done.returncode == 0, done.stdout + done.stderr
    started = time.monotonic()
    done = service.make("test")
    taken = time.monotonic() - started
    print(f"second make test: {taken:.0f} s")
    assert done.returncode == 0, done.stdout + done.stderr
    assert taken < 30
    with running(service) as base:
        assert status(f"{base}/livez") == 200
    shutil.rmtree(baked.path)
