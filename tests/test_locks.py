"""The locks: one download serves every combination, offline, by pip and by uv."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from answers import COMBINATIONS, title
from conftest import Bake, Baked

UV = str(Path(sys.executable).with_name("uv"))
LOCKS = ("run", "dev", "audit")
PIN = re.compile(rb"^[a-z].*(?:\n +--hash.*)*", re.MULTILINE)
# The settings of whoever runs the tests say where to download from; offline there are none.
OFFLINE = {n: v for n, v in os.environ.items() if not n.startswith(("PIP_", "UV_"))}
OFFLINE |= {"PIP_CONFIG_FILE": os.devnull, "UV_NO_CONFIG": "1", "UV_OFFLINE": "1"}


def run(*command: str, env: dict[str, str] | None = None) -> None:
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"


@dataclass(frozen=True)
class Download:
    """The files of every lock, and where each lock was installed from them alone."""

    files: Path
    venvs: Path

    def install(self, lock: bytes, installer: str) -> Path:
        """An environment with a lock's contents; the second time the one that there is."""
        venv = self.venvs / f"{installer}-{hash(lock)}"
        if venv.exists():
            return venv
        requirements = venv.with_suffix(".txt")
        requirements.write_bytes(lock)
        offline = ("--no-index", "--find-links", str(self.files))
        wanted = (*offline, "--require-hashes", "--requirement", str(requirements))
        python = str(venv / "bin" / "python")
        if installer == "uv":
            env = OFFLINE | {"UV_CACHE_DIR": str(self.venvs / "cache")}
            run(UV, "venv", "--quiet", "--python", sys.executable, str(venv), env=env)
            run(UV, "pip", "install", "--python", python, *wanted, env=env)
        else:
            run(sys.executable, "-m", "venv", str(venv), env=OFFLINE)
            run(python, "-m", "pip", "install", "--no-compile", *wanted, env=OFFLINE)
        return venv


@pytest.fixture(scope="module")
def download(bake: Bake, tmp_path_factory: pytest.TempPathFactory) -> Download:
    folder = tmp_path_factory.mktemp("download")
    locks = {lock for answers in COMBINATIONS for lock in locks_of(bake(**answers)).values()}
    pins = {lock: {*PIN.findall(lock)} for lock in locks}
    # Of what another lock holds as well, hash by hash, every file is there.
    most = [lock for lock in locks if not any(pins[lock] < pins[other] for other in locks)]
    for number, lock in enumerate(sorted(most)):
        requirements = folder / f"{number}.txt"
        requirements.write_bytes(lock)
        fetch = ("download", "--quiet", "--require-hashes", "--dest", str(folder / "files"))
        run(sys.executable, "-m", "pip", *fetch, "--requirement", str(requirements))
    (folder / "venvs").mkdir()
    return Download(folder / "files", folder / "venvs")


def locks_of(service: Baked) -> dict[str, bytes]:
    return {name: (service.path / "requirements" / f"{name}.txt").read_bytes() for name in LOCKS}


# By pip, which takes half a minute a lock, those that hold all that the others hold.
CASES = [(each, "uv") for each in COMBINATIONS]
CASES += [(each, "pip") for each in COMBINATIONS if each["redis"]]


@pytest.mark.parametrize(
    ("answers", "installer"), CASES, ids=[f"{title(each)}-{installer}" for each, installer in CASES]
)
def test_a_combination_installs_offline_from_one_download(
    answers: dict[str, object], installer: str, bake: Bake, download: Download
) -> None:
    service = bake(**answers)
    for name, lock in locks_of(service).items():
        venv = download.install(lock, installer)
        if name == "dev":
            itself = ("--no-deps", "--no-build-isolation", "--no-index", str(service.path))
            python = str(venv / "bin" / "python")
            if installer == "uv":
                env = OFFLINE | {"UV_CACHE_DIR": str(download.venvs / "cache")}
                run(UV, "pip", "install", "--python", python, *itself, env=env)
            else:
                run(python, "-m", "pip", "install", *itself, env=OFFLINE)
            run(python, "-c", "import my_service.app", env=OFFLINE)
