"""What is generated: the same bytes for the same answers, and nothing that speaks of a choice."""

import itertools
import json
import re
import shutil
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from answers import CHOICES, COMBINATIONS, EVERY, PAIRS, title
from conftest import LICENSES, ROOT, Bake, Baked, generate

CLI = str(Path(sys.executable).with_name("cookiecutter"))


@pytest.fixture(params=COMBINATIONS, ids=title)
def answers(request: pytest.FixtureRequest) -> dict[str, object]:
    found: dict[str, object] = request.param
    return found


@pytest.fixture
def service(answers: dict[str, object], bake: Bake) -> Baked:
    return bake(**answers)


def test_the_few_combinations_show_every_pair_of_answers() -> None:
    def pairs(rows: list[dict[str, object]]) -> set[tuple[object, ...]]:
        return {pair for row in rows for pair in itertools.combinations(row.items(), 2)}

    assert pairs(PAIRS) == pairs(EVERY)
    assert len(EVERY) == 64


def test_every_question_with_few_answers_is_combined() -> None:
    context = json.loads((ROOT / "cookiecutter.json").read_text())
    asked = {
        question: {*answer} if isinstance(answer, list) else {True, False}
        for question, answer in context.items()
        if not question.startswith("_") and not isinstance(answer, str)
    }
    assert {question: {*answers} for question, answers in CHOICES.items()} == asked


def test_nothing_is_left_unrendered(service: Baked) -> None:
    for name, data in service.tree().items():
        text = data.decode()
        if name.startswith(".github/"):
            text = re.sub(r"\$\{\{ [\w.()=' ]+ \}\}", "", text)  # GitHub's own expressions
        assert not re.search(r"\{\{|\{%|\{#|#%|cookiecutter", name + text), name


def test_no_folder_is_empty(service: Baked) -> None:
    folders = [folder for folder in service.path.rglob("*") if folder.is_dir()]
    assert not [folder for folder in folders if not any(folder.iterdir())]


def test_every_file_is_tidy_text(service: Baked) -> None:
    for name, data in service.tree().items():
        text = data.decode()
        assert "\r" not in text, name
        assert not re.search(r"[ \t]$", text, re.MULTILINE), name
        assert not text.startswith("\n") or name == "LICENSE", name
        assert not text.endswith("\n\n"), name
        assert not text or text.endswith("\n"), name


def test_the_same_answers_give_the_same_bytes(
    answers: dict[str, object], service: Baked, bake: Bake
) -> None:
    assert bake(fresh=True, **answers).tree() == service.tree()


def test_the_answers_are_kept(answers: dict[str, object], service: Baked) -> None:
    kept = json.loads(service.read(".answers.json"))
    context = json.loads((ROOT / "cookiecutter.json").read_text())
    assert {*kept} == {question for question in context if not question.startswith("_")}
    assert kept | answers == kept


def test_the_answers_that_were_kept_give_the_same_service(service: Baked, bake: Bake) -> None:
    assert bake(fresh=True, **json.loads(service.read(".answers.json"))).tree() == service.tree()


@pytest.mark.parametrize("license_", LICENSES)
def test_the_licence_decides_the_licence_alone(license_: str, bake: Bake) -> None:
    service, other = bake(license=license_), bake(license="MIT")
    project = tomllib.loads(service.read("pyproject.toml"))
    plain = tomllib.loads(other.read("pyproject.toml"))
    for table in (project, plain):
        for key in ("license", "license-files", "classifiers"):
            table["project"].pop(key, None)
    assert project == plain
    differing = {".answers.json", ".dockerignore", "LICENSE", "README.md", "pyproject.toml"}
    mine, theirs = service.tree(), other.tree()
    assert {n: d for n, d in mine.items() if n not in differing} == {
        n: d for n, d in theirs.items() if n not in differing
    }


@pytest.mark.parametrize("license_", ["MIT", "Apache-2.0", "BSD-3-Clause"])
def test_the_licence_is_declared_and_there(license_: str, bake: Bake) -> None:
    service = bake(license=license_)
    project = tomllib.loads(service.read("pyproject.toml"))["project"]
    assert (project["license"], project["license-files"]) == (license_, ["LICENSE"])
    assert license_.partition("-")[0] in service.read("LICENSE")
    assert "[LICENSE](LICENSE)" in service.read("README.md")


def test_without_a_licence_nothing_speaks_of_one(bake: Bake) -> None:
    service = bake(license="none")
    project = tomllib.loads(service.read("pyproject.toml"))["project"]
    assert not {"license", "license-files"} & project.keys()
    assert "Private :: Do Not Upload" in project["classifiers"]
    assert "LICENSE" not in service.tree()
    assert "icense" not in service.read("README.md")


def test_without_the_example_nothing_refers_to_it(bake: Bake) -> None:
    for name, data in bake(example_api=False).tree().items():
        if not name.startswith("requirements/"):
            found = re.search(r"\b(rooms|rates|lobby)\b|/messages", name + data.decode())
            assert not found, f"{name}: {found}"


def test_without_continuous_integration_nothing_refers_to_it(bake: Bake) -> None:
    with_it, without = bake().tree(), bake(ci="none").tree()
    gone = {name for name in with_it if name not in without}
    assert gone == {".github/dependabot.yml", ".github/workflows/check.yml"}
    assert {n for n, data in without.items() if with_it[n] != data} == {".answers.json"}


def test_no_file_speaks_of_choices(service: Baked) -> None:
    for name, data in service.tree().items():
        assert not re.search(r"if you (chose|choose|selected|answered)", data.decode()), name
        assert not re.search(r"\b(TODO|FIXME|XXX)\b", data.decode()), name


def test_no_file_names_a_machine_or_an_index(service: Baked) -> None:
    places = r"/(work|tmp/dev|root|home/\w+|opt)/|pypi\.org/simple|--(extra-)?index-url|find-links"
    for name, data in service.tree().items():
        assert not re.search(places, data.decode()), name


@pytest.mark.parametrize("name", ["run", "dev", "audit"])
def test_locks_are_hashed_and_hold_what_is_declared(name: str, bake: Bake) -> None:
    service = bake()
    project = tomllib.loads(service.read("pyproject.toml"))
    groups = {"run": [], **project["dependency-groups"]}
    declared = project["project"]["dependencies"] if name != "audit" else []
    declared = [*declared, *groups[name]]
    pins = pinned(service, name)
    assert {re.split(r"[\[><=]", need)[0] for need in declared} <= pins.keys()
    assert all("--hash=sha256:" in pin for pin in pins.values())


def test_both_locks_pin_the_same(bake: Bake) -> None:
    run, dev = pinned(bake(), "run"), pinned(bake(), "dev")
    assert {name: pin for name, pin in dev.items() if name in run} == run


@pytest.mark.parametrize("name", ["run", "dev"])
def test_redis_adds_to_the_locks_and_changes_no_pin(name: str, bake: Bake) -> None:
    without, having = pinned(bake(redis=False), name), pinned(bake(redis=True), name)
    only = {"async-timeout", "redis", *(["supervisor"] if name == "dev" else [])}
    assert having.keys() - without.keys() == only
    assert without.items() <= having.items()


def pinned(service: Baked, name: str) -> dict[str, str]:
    """Each distribution of a lock with its pin, marker and hashes."""
    lines = service.read(f"requirements/{name}.txt").replace("\\\n", "").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert all(re.match(r"[a-z0-9-]+==[\w.]+[ ;]", pin) for pin in pins)
    return {pin.split("==")[0]: pin for pin in pins}


def test_the_development_secret_is_private_ignored_and_random(bake: Bake) -> None:
    one, two = bake(fresh=True), bake(fresh=True)
    secret = re.fullmatch(r"APP_JWT_SECRET=(\w{32,})\n", one.read(".env"))
    assert secret
    assert one.read(".env") != two.read(".env")
    assert stat.S_IMODE((one.path / ".env").stat().st_mode) == 0o600
    assert ".env" in one.read(".gitignore").splitlines()


def test_generating_again_keeps_the_secret_and_what_was_added(
    template: Path, tmp_path: Path
) -> None:
    command = [CLI, "--no-input", "-f", "-o", str(tmp_path), str(template)]
    made = Baked(tmp_path / "my-service")
    subprocess.run(command, capture_output=True, check=True)
    first, secret = made.tree(), made.read(".env")
    (made.path / "mine.txt").write_text("mine")
    subprocess.run(command, capture_output=True, check=True)
    assert made.tree() == first | {"mine.txt": b"mine"}
    assert made.read(".env") == secret


def test_a_replay_gives_the_same_service(template: Path, tmp_path: Path) -> None:
    answers = ["package_name=orders", "example_api=no", "license=none"]
    subprocess.run(
        [CLI, "--no-input", "-o", str(tmp_path / "one"), str(template), *answers],
        capture_output=True,
        check=True,
    )
    for again in ("-o", "-fo"):  # the second time over what the first one made
        command = [CLI, "--replay", again, str(tmp_path / "two"), str(template)]
        subprocess.run(command, capture_output=True, check=True)
    one, two = Baked(tmp_path / "one" / "my-service"), Baked(tmp_path / "two" / "my-service")
    assert one.tree() == two.tree()


def test_without_hooks_only_the_secret_is_missing(bake: Bake) -> None:
    bare = bake(hooks=False)
    assert bare.tree() == bake().tree()
    assert not (bare.path / ".env").exists()


def test_the_next_steps_are_printed(
    template: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    generate(template, tmp_path, {})
    told = capfd.readouterr().out
    for step in ("cd my-service", "make test", "make run", "http://127.0.0.1:8080"):
        assert step in told


def test_a_git_url_a_zip_and_a_folder_give_the_same_tree(
    bake: Bake, template: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(template, tmp_path / template.name))
    archive = shutil.make_archive(str(tmp_path / "zip"), "zip", tmp_path, folder.name)
    identity = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    for command in (["init", "-q"], ["add", "-A"], [*identity, "commit", "-qm", "all"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    clone = ["git", "clone", "-q", "--bare", str(folder), str(tmp_path / "template.git")]
    subprocess.run(clone, check=True)
    for source in (f"file://{tmp_path}/template.git", archive):
        out = tmp_path / Path(source).suffix
        command = [CLI, "--no-input", "-o", str(out), source]
        subprocess.run(command, capture_output=True, check=True, stdin=subprocess.DEVNULL)
        assert Baked(out / "my-service").tree() == bake().tree()


def test_every_question_changes_what_is_generated(bake: Bake) -> None:
    plain = bake().tree()
    context = json.loads((ROOT / "cookiecutter.json").read_text())
    other = {
        "project_name": "Order Desk",
        "project_slug": "order-desk",
        "package_name": "orders",
        "description": "Takes orders.",
        "author_name": "Ada",
        "author_email": "ada@example.org",
        "license": "none",
        "example_api": False,
        "redis": True,
        "docker": False,
        "ci": "none",
    }
    assert other.keys() == {name for name in context if not name.startswith("_")}
    plain.pop(".answers.json")
    for name, answer in other.items():
        made = bake(**{name: answer}).tree()
        made.pop(".answers.json")
        assert made != plain, name
