"""Patterns lifted, unedited, into applications of three shapes, by the sub-template itself."""

import re
import shutil
import sys
from pathlib import Path

import pytest
from environments import Packages, environment, run
from shelf import needs

APPS = Path(__file__).with_name("apps")
LIFTED = """backpressure client_session drain errors jwt_auth jwt_verify request_id request_log
    request_parts sse typed_handlers websocket_hub""".split()
PACKAGES = frozenset(package for name in LIFTED for package in needs(name))
PYTEST_INI = """\
[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
filterwarnings =
    error
    ignore::aiohttp.web_exceptions.NotAppKeyWarning
"""


def lifted(template: Path, project: Path, *answers: str) -> str:
    cookiecutter = Path(sys.executable).with_name("cookiecutter")
    command = [cookiecutter, "--no-input", template, "--directory", "patterns", *answers]
    return run(*command, cwd=project)


@pytest.mark.parametrize("end", ["latest", pytest.param("lowest", marks=pytest.mark.matrix)])
@pytest.mark.parametrize("name", ["routes", "views", "nested"])
def test_patterns_work_unedited_in_an_application_of_another_shape(
    name: str, end: str, template: Path, tmp_path: Path
) -> None:
    shutil.copytree(APPS / name, tmp_path / "src" / name)
    shutil.copy(APPS / "feeds.py", tmp_path / "src" / name)
    (tmp_path / "pytest.ini").write_text(PYTEST_INI)
    lifted(template, tmp_path, f"patterns={','.join(LIFTED)}", f"package={name}.patterns")
    shutil.copy(APPS / "checks.py", tmp_path / "tests" / "test_lifted.py")
    python = environment(Packages(PACKAGES, end))
    env = {"PYTHONPATH": str(tmp_path / "src"), "APPLICATION": name}
    said = run(python, "-m", "pytest", "-q", "tests", cwd=tmp_path, env=env)
    assert " passed" in said
    mypy = [sys.executable, "-m", "mypy", "--strict", "--python-executable", python]
    run(
        *mypy,
        "--cache-dir",
        python.parents[1] / "mypy",
        "src",
        cwd=tmp_path,
        env={"MYPYPATH": "src"},
    )


@pytest.mark.parametrize("patterns", ["health,cors", "sse,drain,body,retries,token_cache"])
def test_the_command_that_is_printed_runs_the_tests(
    patterns: str, template: Path, tmp_path: Path
) -> None:
    said = lifted(template, tmp_path, f"patterns={patterns}")
    command = re.search(r"^    python (-m pytest .+)$", said, re.MULTILINE)
    assert command
    python = environment(Packages(frozenset({"aiohttp"}), "latest"))
    assert " passed" in run(python, *command[1].split(), cwd=tmp_path)
