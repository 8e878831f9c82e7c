"""Every pattern alone: an empty environment with what its docstring names, a foreign application.

Patterns that name the same packages share an environment; each is in a package of its own there,
and its tests run in a process of their own. What a docstring names at its lowest: `make lift`.
"""

import json
import os
import re
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from environments import Packages, environment, groups, run
from shelf import NAMES, its_test, source

APPS = Path(__file__).with_name("apps")
PYTEST_INI = """\
[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
filterwarnings = error
"""
PYRIGHT = {
    "include": ["src"],
    "typeCheckingMode": "strict",
    "executionEnvironments": [{"root": "src"}],
}
WORKERS = os.cpu_count() or 1
ENDS = ["latest", pytest.param("lowest", marks=pytest.mark.matrix)]


@dataclass(frozen=True)
class Project:
    """A project that one pattern after the other was copied into, and its environment."""

    path: Path
    python: Path


def copied(folder: Path, packages: Packages, names: list[str]) -> Project:
    """Each pattern in a package `with_NAME`, beside an application that was there before."""
    (folder / "tests").mkdir()
    for name in names:
        package = folder / "src" / f"with_{name}"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        shutil.copy(APPS / "shop" / "shop.py", package)
        (package / f"{name}.py").write_text(source(name))
        (folder / "tests" / f"test_{name}.py").write_text(its_test(name, f"with_{name}"))
    shutil.copy(APPS / "shop" / "checks.py", folder / "tests" / "test_wiring.py")
    (folder / "pytest.ini").write_text(PYTEST_INI)
    (folder / "pyrightconfig.json").write_text(json.dumps(PYRIGHT))
    return Project(folder, environment(packages))


def outcome(project: Project, name: str) -> str:
    """What pytest says of the pattern's test and of its wiring, in a process of their own."""
    files = [f"tests/test_{name}.py", "tests/test_wiring.py"]
    env = {"PYTHONPATH": str(project.path / "src"), "PATTERN": name, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [project.python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files]
    return run(*command, cwd=project.path, check=False, env=env)


def types(project: Project) -> str:
    """What mypy says of the patterns and their tests, and pyright of the patterns."""
    mypy = [sys.executable, "-m", "mypy", "--strict", "--python-executable", project.python]
    cache = project.python.parents[1] / "mypy"  # beside what it was made of
    options = ["--cache-dir", cache, "--no-error-summary"]
    said = run(
        *mypy, *options, "src", "tests", cwd=project.path, check=False, env={"MYPYPATH": "src"}
    )
    checker = Path(sys.executable).with_name("basedpyright")
    options = ["--pythonpath", project.python, "--level", "error"]
    pyright = run(checker, *options, cwd=project.path, check=False)
    return said + ("" if pyright.startswith("0 errors") else pyright)


@pytest.fixture(scope="module")
def projects(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> list[Project]:
    """One project for each set of packages."""
    return [
        copied(tmp_path_factory.mktemp("lift"), Packages(packages, request.param), names)
        for packages, names in groups().items()
    ]


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest, projects: list[Project]) -> dict[str, str]:
    """The run of each pattern that was selected (-k), several at a time."""
    selected = " ".join(item.name for item in request.session.items)
    members = [
        (project, name)
        for project, names in zip(projects, groups().values(), strict=True)
        for name in names
        if re.search(rf"[\[-]{name}[\]-]", selected)
    ]
    with ThreadPoolExecutor(WORKERS) as pool:
        said = list(pool.map(lambda member: outcome(*member), members))
    return {name: each for (_, name), each in zip(members, said, strict=True)}


@pytest.mark.parametrize("projects", ENDS, indirect=True)
@pytest.mark.parametrize("name", NAMES)
def test_a_pattern_works_alone_and_passes_its_test(name: str, outcomes: dict[str, str]) -> None:
    assert re.search(r"^\d+ passed in ", outcomes[name], re.MULTILINE), outcomes[name]


@pytest.mark.parametrize("projects", ENDS, indirect=True)
def test_mypy_and_pyright_are_strict_and_clean(projects: list[Project]) -> None:
    with ThreadPoolExecutor(WORKERS) as pool:
        said = "".join(pool.map(types, projects))
    assert not said, said
