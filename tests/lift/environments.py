"""Empty environments, one for each set of packages that patterns name, at both ends."""

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from conftest import ROOT
from shelf import NAMES, SERVICE, needs

UV = Path(sys.executable).with_name("uv")
TESTING = {"pytest": "pytest>=8.4", "pytest-aiohttp": "pytest-aiohttp>=1.1"}
LOCK = SERVICE / "requirements" / "dev.txt"
# What the service is locked to; with NEWEST=1 whatever the index has today.
NEWEST = bool(os.environ.get("NEWEST"))


@dataclass(frozen=True)
class Packages:
    """The packages that some patterns name, at the `lowest` or the `latest` versions."""

    names: frozenset[str]
    end: str

    def __str__(self) -> str:
        # pytest-aiohttp brings aiohttp, so those that do not name it share the environment.
        return "-".join([self.end, *sorted(self.names - {"aiohttp"})]).replace("[crypto]", "")


def groups(names: Iterable[str] = NAMES) -> dict[frozenset[str], list[str]]:
    """Patterns by what they name, all but aiohttp, which every environment has."""
    found: dict[frozenset[str], list[str]] = {}
    for name in names:
        found.setdefault(frozenset(needs(name)) - {"aiohttp"}, []).append(name)
    return found


def requirements(packages: Packages) -> dict[str, str]:
    """Each distribution's requirement, by its name."""
    named = {
        package: requirement
        for name in NAMES
        for package, requirement in needs(name).items()
        if package in packages.names | {"aiohttp"}
    }
    return named | TESTING


def constraints(packages: Packages) -> str:
    """The service's lock, hashes included; at the lowest end for what is not named alone."""
    if NEWEST:
        return ""
    named = {re.sub(r"\[.*", "", name) for name in requirements(packages)}
    blocks = re.findall(r"^[a-z].*(?:\n +--hash.*)*", LOCK.read_text(), re.MULTILINE)
    free = named if packages.end == "lowest" else set()
    return "\n".join(block for block in blocks if block.partition("==")[0] not in free)


def environment(packages: Packages) -> Path:
    """The interpreter of an environment with these packages; kept under build/ for the next run."""
    wanted, pinned = sorted(requirements(packages).values()), constraints(packages)
    key = hashlib.sha256(repr((wanted, pinned, sys.version)).encode()).hexdigest()[:8]
    venv = ROOT / "build" / "lift" / f"{packages}-{key}"
    ready, python = venv / ".ready", venv / "bin" / "python"
    if NEWEST or not ready.exists():
        run(UV, "venv", "--quiet", "--clear", "--python", sys.executable, venv)
        (venv / "constraints.txt").write_text(pinned)
        resolution = "lowest-direct" if packages.end == "lowest" else "highest"
        install = [UV, "pip", "install", "--quiet", "--python", python, "--resolution", resolution]
        run(*install, "--constraint", venv / "constraints.txt", *wanted)
        ready.touch()
    return python


def run(
    *command: object, cwd: Path = ROOT, check: bool = True, env: Mapping[str, str] | None = None
) -> str:
    """What the command printed; a failing one fails the test with it."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0 or not check, done.stdout
    return done.stdout
