"""The shelf as the sub-template holds it: the service's patterns, by links, and the others."""

import ast
import re
from pathlib import Path

from conftest import ROOT

SUB_TEMPLATE = ROOT / "patterns"
FOLDER = SUB_TEMPLATE / "{{cookiecutter.__unpacked}}"
SERVICE = ROOT / "{{cookiecutter.project_slug}}"
SERVICE_SOURCES = SERVICE / "src" / "{{cookiecutter.package_name}}" / "patterns"
SERVICE_TESTS = SERVICE / "tests" / "patterns"
PACKAGE = "{{cookiecutter.package_name}}.patterns"

# What a distribution lets one import: its own packages, and those that its public API is made of.
PROVIDES = {
    "aiohttp": {"aiohttp", "multidict", "yarl"},
    "offapi": {"offapi"},
    "prometheus-client": {"prometheus_client"},
    "pydantic": {"pydantic", "pydantic_core"},
    "pydantic-core": {"pydantic_core"},
    "pyjwt[crypto]": {"cryptography", "jwt"},
    "redis": {"redis"},
}
NAMES = sorted(path.stem for path in (FOLDER / "src").glob("*.py"))


def stem(path: Path) -> str:
    """The name of a module, of which the file may depend on an answer."""
    return re.sub(r"\{%.*?%\}", "", path.name).removesuffix(".py")


def source(name: str, folder: Path = FOLDER) -> str:
    return (folder / "src" / f"{name}.py").read_text(encoding="utf-8")


def its_test(name: str, package: str = PACKAGE, folder: Path = FOLDER) -> str:
    text = (folder / "tests" / f"test_{name}.py").read_text(encoding="utf-8")
    return text.replace(PACKAGE, package)


def docstring(name: str) -> str:
    return ast.get_docstring(ast.parse(source(name))) or ""


def needs(name: str) -> dict[str, str]:
    """The distributions that a pattern names, each with its requirement."""
    line = re.search(r"^Needs: (.*(?:\n .*)*)", docstring(name), re.MULTILINE)
    assert line, f"{name} does not say what it needs"
    if line[1] == "the standard library":
        return {}
    requirements = [need.strip() for need in line[1].split(",")]
    return {re.split("[<>=~!]", need)[0]: need for need in requirements}
