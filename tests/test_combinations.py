"""Every combination of answers passes its own checks: slow, `make combinations`.

Those that differ in prose, licence or workflow alone have the same Python. Format and lint are
checked for every one, the rest of `make check` for the first of those with the same Python, in an
environment that those with the same lock share.
"""

import hashlib
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from answers import EVERY, title
from conftest import ROOT, Bake, Baked
from test_generated import Installed, path_with

pytestmark = pytest.mark.matrix
RUFF = str(Path(sys.executable).with_name("ruff"))
PROSE = re.compile(r"README\.md|AGENTS\.md|LICENSE|\.answers\.json|\.github/|\.dockerignore")
LICENCE = re.compile(rb"^(license|license-files|classifiers) = .*\n", re.MULTILINE)


@dataclass
class Checked:
    """The Python trees that have passed `make check`, and when that began."""

    path: str
    began: float = field(default_factory=time.monotonic)
    trees: set[bytes] = field(default_factory=set)
    rows: int = 0


@pytest.fixture(scope="module")
def checked(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Checked]:
    checked = Checked(path_with(True, tmp_path_factory.mktemp("bin")))
    yield checked
    taken = time.monotonic() - checked.began
    capture = request.config.pluginmanager.getplugin("capturemanager")
    assert capture
    with capture.global_and_fixture_disabled():
        print(f"\n{checked.rows} combinations, {len(checked.trees)} of them tested: {taken:.0f} s")
    assert taken < 15 * 60


def python_of(service: Baked) -> bytes:
    """A digest of all that its tests, types and coverage can depend on."""
    digest = hashlib.sha256()
    for name, data in service.tree().items():
        if not PROSE.match(name):
            digest.update(name.encode() + b"\0" + LICENCE.sub(b"", data) + b"\0")
    return digest.digest()


@pytest.mark.parametrize("answers", EVERY, ids=title)
def test_a_combination_passes_its_check(
    answers: dict[str, object], bake: Bake, checked: Checked
) -> None:
    service = bake(fresh=True, **answers)
    for command in (("format", "--check"), ("check",)):
        done = service.run(RUFF, *command, "--no-cache", ".")
        assert done.returncode == 0, done.stdout + done.stderr
    checked.rows += 1
    tree = python_of(service)
    if tree not in checked.trees:
        lock = hashlib.sha256(service.read("requirements/dev.txt").encode()).hexdigest()[:8]
        venv = ROOT / "build" / f"service-combinations-{lock}"
        env = {"PATH": checked.path, "PYTHON": sys.executable}
        done = Installed(service, venv, env).make("check")
        assert done.returncode == 0, done.stdout + done.stderr
        checked.trees.add(tree)
