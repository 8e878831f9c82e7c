"""Every pattern stands alone: what it and its test import is what its docstring names, no more."""

import ast
import json
import re
import sys

import pytest
from shelf import (
    FOLDER,
    NAMES,
    PACKAGE,
    PROVIDES,
    SERVICE_SOURCES,
    SERVICE_TESTS,
    SUB_TEMPLATE,
    docstring,
    its_test,
    needs,
    source,
    stem,
)

TOOLS = {"aiohttp", "multidict", "pytest", "pytest_aiohttp", "pytest_asyncio", "yarl"}
JINJA_FREE = PACKAGE.replace("{{cookiecutter.package_name}}", "the_service")


def imported(text: str) -> set[str]:
    """Every imported module by its full name; relative ones keep their dots."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add("." * node.level + (node.module or ""))
    return found


def tops(modules: set[str]) -> set[str]:
    return {name if name.startswith(".") else name.split(".")[0] for name in modules}


def provided(name: str) -> set[str]:
    return {module for need in needs(name) for module in PROVIDES[need]}


@pytest.mark.parametrize("name", NAMES)
def test_a_pattern_imports_what_its_docstring_names(name: str) -> None:
    assert tops(imported(source(name))) <= sys.stdlib_module_names | provided(name)


@pytest.mark.parametrize("name", NAMES)
def test_a_docstring_names_what_its_pattern_uses(name: str) -> None:
    words = {
        node.value
        for node in ast.walk(ast.parse(source(name)))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    used = tops(imported(source(name))) | words  # a package's data files are asked for by its name
    if "web." in docstring(name):
        used.add("aiohttp")  # by the wiring
    for need in needs(name):
        assert PROVIDES[need] & used, f"{need} is named, and not used"


@pytest.mark.parametrize("name", NAMES)
def test_a_test_imports_its_own_pattern_and_what_that_names(name: str) -> None:
    modules = imported(its_test(name, JINJA_FREE))
    own = {module for module in modules if module.startswith(JINJA_FREE)}
    assert own <= {JINJA_FREE, f"{JINJA_FREE}.{name}"}
    assert tops(modules - own) <= sys.stdlib_module_names | TOOLS | provided(name)


@pytest.mark.parametrize("name", NAMES)
def test_a_test_takes_no_other_pattern_from_the_shelf(name: str) -> None:
    for node in ast.walk(ast.parse(its_test(name, JINJA_FREE))):
        if isinstance(node, ast.ImportFrom) and node.module == JINJA_FREE:
            assert [alias.name for alias in node.names] == [name]


@pytest.mark.parametrize("name", NAMES)
def test_a_docstring_can_be_read_by_a_machine(name: str) -> None:
    marks = ["\nWiring::\n\n    ", "\nNeeds: ", "\nOrder: ", "\nNot: "]
    places = [docstring(name).find(mark) for mark in marks]
    assert places == sorted(places)
    assert places[0] > 0
    assert source(name).startswith('"""')
    assert source(name).count("\n__all__ = ") == 1


def test_the_shelf_has_every_pattern_of_the_service_from_one_source() -> None:
    for own, folder in ((SERVICE_SOURCES, "src"), (SERVICE_TESTS, "tests")):
        wanted = {
            path.name: stem(path) for path in own.glob("*.py*") if "__init__" not in path.name
        }
        linked = {path for path in (FOLDER / folder).glob("*.py") if path.is_symlink()}
        assert {path.stem for path in linked} == set(wanted.values())
        for path in linked:
            assert path.resolve().parent == own
            assert wanted[path.resolve().name] == path.stem
            assert not path.readlink().is_absolute()


def test_every_pattern_has_its_test() -> None:
    tests = {path.stem for path in (FOLDER / "tests").glob("*.py")}
    assert tests == {f"test_{name}" for name in NAMES}


def test_every_pattern_has_its_changelog_and_no_entry_is_ahead() -> None:
    sections = re.split("^## ", (SUB_TEMPLATE / "CHANGELOG.md").read_text(), flags=re.MULTILINE)[1:]
    assert [section.split("\n")[0] for section in sections] == NAMES
    answers = json.loads((SUB_TEMPLATE / "cookiecutter.json").read_text())
    now = [int(part) for part in answers["__version__"].split(".")]
    for section in sections:
        entries = re.findall(r"^- (\d+)\.(\d+)\.(\d+): .+\.$", section, re.MULTILINE)
        versions = [[int(part) for part in entry] for entry in entries]
        assert versions
        assert versions == sorted(versions, reverse=True)
        assert versions[0] <= now
