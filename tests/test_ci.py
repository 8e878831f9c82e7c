"""The workflows, the template's and the generated one: sound, and what they run exists."""

import itertools
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT, Bake, Baked

BIN = Path(sys.executable).parent
OURS = Baked(ROOT)
WORKFLOWS = ("check.yml", "weekly.yml")
PINNED = re.compile(
    r"uses: (?P<action>[\w/-]+)@(?P<commit>[0-9a-f]{40}) # (?P<version>v\d+\.\d+\.\d+)"
)


@pytest.fixture(
    params=[None, *itertools.product((True, False), (True, False))],
    ids=lambda row: "template" if row is None else "service redis={} docker={}".format(*row),
)
def repository(request: pytest.FixtureRequest, bake: Bake) -> Baked:
    """The template's folder, then those of services."""
    if request.param is None:
        return OURS
    redis, docker = request.param
    return bake(redis=redis, docker=docker)


def workflows(repository: Baked) -> dict[str, Any]:
    folder = repository.path / ".github" / "workflows"
    files = [folder / name for name in WORKFLOWS if (folder / name).exists()]
    return {file.name: yaml.safe_load(file.read_text()) for file in files}


def jobs(repository: Baked) -> dict[str, Any]:
    found = workflows(repository).items()
    return {f"{name} {job}": spec for name, all_ in found for job, spec in all_["jobs"].items()}


def steps(repository: Baked) -> list[dict[str, Any]]:
    return [step for job in jobs(repository).values() for step in job["steps"]]


def test_zizmor_as_an_auditor_finds_nothing(repository: Baked) -> None:
    done = repository.run(
        *(str(BIN / "zizmor"), "--offline", "--no-progress", "--persona", "auditor"),
        *("--strict-collection", "--no-config", ".github"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No findings" in done.stdout


@pytest.mark.parametrize(
    ("schema", "pattern"), [("github-workflows", "workflows/*"), ("dependabot", "dependabot.yml")]
)
def test_github_would_read_it(schema: str, pattern: str, repository: Baked) -> None:
    files = [str(file) for file in (repository.path / ".github").glob(pattern)]
    assert files
    command = [str(BIN / "check-jsonschema"), "--builtin-schema", f"vendor.{schema}", *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_action_is_pinned_by_its_commit(repository: Baked) -> None:
    for name in workflows(repository):
        text = repository.read(f".github/workflows/{name}")
        assert len(PINNED.findall(text)) == text.count("uses:") > 0


def test_the_service_pins_what_the_template_pins(bake: Bake) -> None:
    def pins(repository: Baked) -> set[tuple[str, ...]]:
        texts = [repository.read(f".github/workflows/{name}") for name in workflows(repository)]
        return {pin for text in texts for pin in PINNED.findall(text)}

    assert pins(bake()) == pins(OURS)


def test_nothing_is_permitted_but_reading(repository: Baked) -> None:
    for workflow in workflows(repository).values():
        assert workflow["permissions"] == {}
        assert workflow["concurrency"]
    for name, job in jobs(repository).items():
        assert job["permissions"] in ({}, {"contents": "read"}), name
        assert job["timeout-minutes"] <= 60, name
    for step in steps(repository):
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"] == {"persist-credentials": False}
    for name in workflows(repository):
        assert "secrets." not in repository.read(f".github/workflows/{name}")


def test_updates_are_grouped_and_cool_down_for_a_week(repository: Baked) -> None:
    updates = yaml.safe_load(repository.read(".github/dependabot.yml"))["updates"]
    assert {"pip", "github-actions"} <= {update["package-ecosystem"] for update in updates}
    for update in updates:
        assert update["cooldown"] == {"default-days": 7}
        assert [group["patterns"] for group in update["groups"].values()] == [["*"]]


@pytest.mark.parametrize("docker", [True, False])
@pytest.mark.parametrize("redis", [True, False])
def test_updates_are_asked_for_what_is_there(docker: bool, redis: bool, bake: Bake) -> None:
    service = bake(docker=docker, redis=redis)
    updates = yaml.safe_load(service.read(".github/dependabot.yml"))["updates"]
    found = {update["package-ecosystem"] for update in updates}
    assert ("docker" in found) == ("Dockerfile" in service.tree()) == docker
    compose = service.tree().get("compose.yaml", b"")
    assert ("docker-compose" in found) == bool(re.search(rb"^ +image:", compose, re.MULTILINE))


@pytest.mark.parametrize("redis", [True, False])
def test_redis_is_installed_where_its_tests_need_it(redis: bool, bake: Bake) -> None:
    service = bake(redis=redis)
    assert ("redis" in service.read(".github/workflows/check.yml")) == redis


def test_the_service_is_checked_by_make_check_on_every_supported_python(bake: Bake) -> None:
    service = bake()
    assert "make check" in [step.get("run") for step in steps(service)]
    matrix = jobs(service)["check.yml check"]["strategy"]["matrix"]
    assert matrix == jobs(OURS)["check.yml pythons"]["strategy"]["matrix"]
    makefile = (ROOT / "Makefile").read_text()
    listed = re.search(r"^PYTHONS \?= (.*)$", makefile, re.MULTILINE)
    assert listed
    assert [f"python{version}" for version in matrix["python"]] == listed[1].split()
    assert matrix["include"] == [{"python": "3.14", "claimed": True}]
    assert matrix["claimed"] == [False]


def test_what_is_required_waits_for_every_job(repository: Baked) -> None:
    check = workflows(repository)["check.yml"]["jobs"]
    needs = check["green"]["needs"]
    assert {*([needs] if isinstance(needs, str) else needs)} == {*check} - {"green"}


def test_every_command_of_the_workflows_exists(repository: Baked) -> None:
    targets = re.findall(r"^([a-z]+):", repository.read("Makefile"), re.MULTILINE)
    for step in steps(repository):
        for command in re.findall(r"^make (\w+)", step.get("run", ""), re.MULTILINE):
            assert command in targets
        if step.get("run") == ".ci/run":
            assert (repository.path / ".ci" / "run").stat().st_mode & 0o111
