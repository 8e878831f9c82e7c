"""A service follows the template: from one tagged state to the next, its own changes kept.

With cruft, as the READMEs tell. What cookiecutter alone generates is linked by the answers it kept.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Baked

CRUFT = str(Path(sys.executable).with_name("cruft"))
ANSWERS = {"project_name": "Order Desk", "package_name": "orders", "redis": "yes", "ci": "github"}
ADDED = "\nA line that only this service has.\n"


class Repository:
    """A folder under git, with an identity of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def git(self, *arguments: str) -> str:
        identity = {
            f"GIT_{role}_{what}": "a@example.org"
            for role in ("AUTHOR", "COMMITTER")
            for what in ("NAME", "EMAIL")
        }
        return subprocess.run(
            ["git", "-c", "init.defaultBranch=main", "-c", "commit.gpgsign=false", *arguments],
            cwd=self.path, env=os.environ | identity, capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip

    def commit(self, message: str) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)

    def edit(self, name: str, change: Callable[[str], str]) -> None:
        file = self.path / name
        before = file.read_text()
        assert change(before) != before
        file.write_text(change(before))


def cruft(*arguments: str, folder: Path) -> str:
    done = subprocess.run(
        [CRUFT, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def upstream(template: Path, tmp_path: Path) -> Repository:
    """The template with two tagged states; the working tree is the first."""
    upstream = Repository(Path(shutil.copytree(template, tmp_path / "template", symlinks=True)))
    upstream.git("init", "--quiet")
    upstream.commit("one")
    upstream.git("tag", "v1")
    service = "{{cookiecutter.project_slug}}"
    package = f"{service}/src/{{{{cookiecutter.package_name}}}}"
    upstream.edit(f"{service}/Makefile", lambda text: text.replace("Run the tests", "Test it"))
    upstream.edit(f"{package}/app.py", lambda text: f"{text}\n# From the second state: {{{{ }}}}\n")
    upstream.edit(f"{service}/README.md", lambda text: text.replace("## Routes", "## All routes"))
    (upstream.path / service / "new {% if cookiecutter.redis %}file.txt{% endif %}").write_text(
        "{{ cookiecutter.package_name }} {{ cookiecutter.greeting }}\n"
    )
    upstream.edit(
        "cookiecutter.json", lambda text: text.replace("{", '{\n  "greeting": "hello",', 1)
    )
    upstream.commit("two")
    upstream.git("tag", "v2")
    return upstream


def started(path: Path) -> Repository:
    """The service as its owner goes on with it: some lines added, one file gone."""
    service = Repository(path)
    service.git("init", "--quiet")
    service.commit("generated")
    service.edit("README.md", lambda text: text.replace("## Settings", f"{ADDED}\n## Settings"))
    service.edit("src/orders/api/__init__.py", lambda text: text + "# ours\n")
    (service.path / "scripts" / "tour.py").unlink()
    (service.path / "src" / "orders" / "api" / "own.py").write_text("OURS = True\n")
    service.commit("ours")
    return service


def assert_updated(service: Repository, secret: str) -> None:
    made = Baked(service.path)
    assert "Test it" in made.read("Makefile")
    assert made.read("src/orders/app.py").endswith("\n# From the second state: {{ }}\n")
    assert "## All routes" in made.read("README.md")
    assert made.read("new file.txt") == "orders hello\n"
    assert ADDED in made.read("README.md")
    assert made.read("src/orders/api/__init__.py").endswith("# ours\n")
    assert made.read("src/orders/api/own.py") == "OURS = True\n"
    assert not (service.path / "scripts" / "tour.py").exists()
    assert made.read(".env") == secret
    assert not [name for name in made.tree() if name.endswith((".rej", ".orig"))]
    changed = {line[3:] for line in service.git("status", "--porcelain").splitlines()}
    assert changed == {
        *(".answers.json", ".cruft.json", "Makefile", "README.md", '"new file.txt"'),
        "src/orders/app.py",
    }
    assert json.loads(made.read(".answers.json"))["greeting"] == "hello"


def test_what_cruft_generated_is_updated_and_keeps_its_own_changes(
    upstream: Repository, tmp_path: Path
) -> None:
    source, context = str(upstream.path), json.dumps(ANSWERS)
    create = ("create", source, "--no-input", "--checkout", "v1", "--extra-context", context)
    cruft(*create, folder=tmp_path)
    service = started(tmp_path / "order-desk")
    secret = (service.path / ".env").read_text()
    assert "out of date" in expect_behind(service)
    cruft("update", "--skip-apply-ask", folder=service.path)
    assert_updated(service, secret)
    service.commit("updated")
    assert "up to date" in cruft("check", folder=service.path)


def test_what_cookiecutter_generated_is_linked_by_the_answers_it_kept_and_updated(
    upstream: Repository, tmp_path: Path
) -> None:
    source = str(upstream.path)
    command = [str(Path(CRUFT).with_name("cookiecutter")), "--no-input", "--checkout", "v1"]
    answers = [f"{name}={answer}" for name, answer in ANSWERS.items()]
    subprocess.run(
        [*command, "--output-dir", str(tmp_path), f"git+file://{source}", *answers],
        capture_output=True,
        check=True,
    )
    service = started(tmp_path / "order-desk")
    secret = (service.path / ".env").read_text()
    kept = (service.path / ".answers.json").read_text()
    link = ("link", source, "--no-input", "--checkout", "v1", "--extra-context", kept)
    cruft(*link, folder=service.path)
    service.commit("linked")
    cruft("update", "--skip-apply-ask", folder=service.path)
    assert_updated(service, secret)


def test_where_both_changed_a_line_the_conflict_is_shown(
    upstream: Repository, tmp_path: Path
) -> None:
    context = json.dumps(ANSWERS)
    create = ("create", str(upstream.path), "--no-input", "--checkout", "v1")
    cruft(*create, "--extra-context", context, folder=tmp_path)
    service = started(tmp_path / "order-desk")
    service.edit("Makefile", lambda text: text.replace("Run the tests", "Run our tests"))
    service.commit("a conflict")
    cruft("update", "--skip-apply-ask", folder=service.path)
    makefile = Baked(service.path).read("Makefile")
    assert "Run our tests" in makefile
    assert "<<<<<<<" in makefile
    assert "Test it" in makefile
    assert "UU Makefile" in service.git("status", "--porcelain").splitlines()


def expect_behind(service: Repository) -> str:
    done = subprocess.run(
        [CRUFT, "check"], cwd=service.path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    return done.stdout + done.stderr
