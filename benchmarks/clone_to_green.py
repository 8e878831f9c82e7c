"""How long is it from `git clone` to a green `make test` of the generated service, with uv?

    python benchmarks/clone_to_green.py

Clones the repository's last commit, installs cookiecutter from its lock, generates the default
service, runs `make test` in it: once with uv's cache empty (everything is downloaded), once with
what that left behind. Exit 1 when the second takes a minute or longer.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
UV = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
LIMIT = 60


def clone_to_green(work: Path, cache: Path) -> dict[str, float]:
    """Seconds of each step, in an empty folder with this cache."""
    assert UV, "uv is needed"
    tools, clone = work / "tools", work / "aiohttp-template"
    path = f"{Path(UV).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "UV_CACHE_DIR": str(cache), "PATH": path, "PYTHON": sys.executable}
    lock = str(clone / "requirements" / "demo.txt")
    python = str(tools / "bin" / "python")
    steps: dict[str, list[list[str]]] = {
        "clone": [["git", "clone", "--quiet", str(ROOT), str(clone)]],
        "install cookiecutter": [
            [UV, "venv", "--quiet", "--python", sys.executable, str(tools)],
            [UV, "pip", "install", "--quiet", "--python", python, "--require-hashes", "-r", lock],
        ],
        "generate": [
            [
                f"{tools}/bin/cookiecutter",
                "--no-input",
                "--default-config",
                "-o",
                str(work),
                str(clone),
            ]
        ],
        "make test": [["make", "-C", str(work / "my-service"), "test"]],
    }
    taken = {}
    for step, commands in steps.items():
        began = time.perf_counter()
        for command in commands:
            subprocess.run(command, env=env, check=True, capture_output=True)
        taken[step] = time.perf_counter() - began
    return taken


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        totals = {}
        for temperature in ("cold", "warm"):
            work = Path(folder) / temperature
            work.mkdir()
            taken = clone_to_green(work, Path(folder) / "cache")
            totals[temperature] = sum(taken.values())
            steps = ", ".join(f"{step} {seconds:.1f} s" for step, seconds in taken.items())
            print(f"{temperature}: {totals[temperature]:.1f} s ({steps})", flush=True)
    return int(totals["warm"] >= LIMIT)


if __name__ == "__main__":
    sys.exit(main())
