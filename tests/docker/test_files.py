"""What runs the service in containers, checked without any: linters, schemas, what gets in."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import Bake, Baked

BIN = Path(sys.executable).parent
FILES = ("Dockerfile", ".dockerignore", "compose.yaml", "kubernetes.yaml")


@pytest.fixture(params=[False, True], ids=["memory", "redis"])
def service(request: pytest.FixtureRequest, bake: Bake) -> Baked:
    return bake(redis=request.param)


def lint(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_hadolint_finds_nothing(service: Baked) -> None:
    lint(str(BIN / "hadolint"), "--failure-threshold", "style", str(service.path / "Dockerfile"))


@pytest.mark.parametrize("version", ["1.30", "1.37"])
def test_kubernetes_would_take_the_manifest(service: Baked, version: str) -> None:
    manifest = str(service.path / "kubernetes.yaml")
    lint(str(BIN / "kubernetes-validate"), "--strict", "--kubernetes-version", version, manifest)


def test_images_are_named_by_digest(service: Baked) -> None:
    compose = yaml.safe_load(service.read("compose.yaml"))["services"]
    images = re.findall(r"^ARG PYTHON=(.*)$", service.read("Dockerfile"), re.MULTILINE)
    images += [part["image"] for part in compose.values() if "image" in part]
    assert len(images) == len(compose)
    assert all(re.fullmatch(r"docker\.io/\S+:\S+@sha256:[0-9a-f]{64}", image) for image in images)


def test_containers_can_neither_write_nor_gain_rights(service: Baked) -> None:
    compose = yaml.safe_load(service.read("compose.yaml"))["services"]["service"]
    assert compose["read_only"] is True
    assert compose["cap_drop"] == ["ALL"]
    deployment = next(yaml.safe_load_all(service.read("kubernetes.yaml")))
    pod = deployment["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    context = pod["containers"][0]["securityContext"]
    assert context["readOnlyRootFilesystem"] is True
    assert context["allowPrivilegeEscalation"] is False
    assert context["capabilities"] == {"drop": ["ALL"]}


def test_redis_is_there_when_it_was_chosen_alone(service: Baked, bake: Bake) -> None:
    chosen = service is bake(redis=True)
    for name in ("compose.yaml", "kubernetes.yaml"):
        assert ("redis" in service.read(name)) == chosen
    assert ("redis" in yaml.safe_load(service.read("compose.yaml"))["services"]) == chosen


def test_without_docker_there_is_no_trace_of_it(bake: Bake) -> None:
    service = bake(docker=False)
    tree = {name: data for name, data in service.tree().items() if name != ".answers.json"}
    assert not {*FILES, "tests/test_deployment.py"} & tree.keys()
    assert not [name for name, data in tree.items() if b"ocker" in data and "/" not in name]
