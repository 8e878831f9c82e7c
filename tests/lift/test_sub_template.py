"""The sub-template in a project that is there already: it adds files, and changes none."""

import ast
import json
import re
import runpy
import shutil
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT, Bake
from shelf import FOLDER, NAMES, SERVICE_SOURCES, its_test, source, stem

CLI = str(Path(sys.executable).with_name("cookiecutter"))
UNPACKED = "unpacked-aiohttp-patterns"
LIFT = runpy.run_path(str(FOLDER / "lift.py"))
HEADER = re.compile(
    r"# aiohttp-template \d+\.\d+\.\d+, ((tests/)?patterns/\w+\.py), sha256 [0-9a-f]{12}\.\n"
    r"# Compare or update: cookiecutter gh:ORG/aiohttp-template --directory patterns patterns=\w+\n"
)
REFUSED = [
    *(("patterns", text) for text in ("", ",", "nonsense", "erors", "all,errors", "../errors")),
    *(("package", name) for name in ("", "2x", "a-b", "a..b", ".a", "a/b", "café.x", "app.class")),
    *(("package", name) for name in ("json", "asyncio.patterns", "aiohttp.patterns", "pytest")),
    *(("source_root", name) for name in ("", "..", "../x", "/tmp", "a/../..", "a\\b", "~", "a b")),  # noqa: S108
    *(("tests", name) for name in ("", "..", "tests/../..", "/tmp", "C:tests", "tests/")),  # noqa: S108
]


def lift(
    template: object, project: Path, *options: str, stdin: str | None = None, **answers: str
) -> subprocess.CompletedProcess[str]:
    given = [f"{name}={value}" for name, value in answers.items()]
    mode = ["--no-input"] if stdin is None else []
    return subprocess.run(
        [CLI, *mode, *options, str(template), "--directory", "patterns", *given],
        cwd=project,
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def files(project: Path) -> dict[str, str]:
    return {
        path.relative_to(project).as_posix(): path.read_text(encoding="utf-8")
        for path in sorted(project.rglob("*"))
        if path.is_file() and ".git" not in path.parts
    }


def body(text: str) -> str:
    return HEADER.sub("", text, count=1)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("answers", [{}, {"patterns": "list"}])
def test_the_list_names_every_pattern_and_writes_nothing(
    answers: dict[str, str], template: Path, project: Path
) -> None:
    done = lift(template, project, **answers)
    assert done.returncode == 0, done.stderr
    assert set(NAMES) <= set(done.stdout.split())
    assert "needs aiohttp>=3.14.4, pydantic-core>=" in done.stdout
    assert not list(project.iterdir())


def test_enter_at_every_question_shows_the_list(template: Path, project: Path) -> None:
    done = lift(template, project, stdin="\n" * 4)
    assert done.returncode == 0, done.stderr
    for question in ("Which patterns?", "Into which package", "In which folder", "their tests"):
        assert question in done.stdout
    assert "Nothing was written." in done.stdout
    assert not list(project.iterdir())


def test_all_patterns_come_with_their_tests_and_nothing_else(template: Path, project: Path) -> None:
    done = lift(template, project, patterns="all", package="web.shelf", tests="tests/unit")
    assert done.returncode == 0, done.stderr
    made = files(project)
    wanted = {"src/web/__init__.py": "", "src/web/shelf/__init__.py": ""}
    shelf = template / FOLDER.relative_to(ROOT)
    for name in NAMES:
        wanted[f"src/web/shelf/{name}.py"] = source(name, shelf)
        wanted[f"tests/unit/test_{name}.py"] = its_test(name, "web.shelf", shelf)
    assert {path: body(text) for path, text in made.items()} == wanted


def test_one_pattern_comes_alone_and_what_is_left_to_do_is_printed(
    template: Path, project: Path
) -> None:
    done = lift(template, project, patterns="errors", package="shelf", source_root=".")
    assert done.returncode == 0, done.stderr
    made = ["shelf/__init__.py", "shelf/errors.py", "tests/patterns/test_errors.py"]
    assert list(files(project)) == made
    for line in (
        "    from shelf.errors import errors, note_started, problem_document\n",
        "    app.on_response_prepare.append(note_started)\n    app.middlewares.append(errors())\n",
        "  Order: inside the log",
        'what your project installs: "aiohttp>=3.14.4" "pydantic-core>=2.41"\n',
        "    python -m pytest -o asyncio_mode=auto -o pythonpath=. tests/patterns/test_errors.py\n",
    ):
        assert line in done.stdout


def test_every_file_says_what_it_is_and_how_to_compare_it(template: Path, project: Path) -> None:
    lift(template, project, patterns="cors,sse")
    made = {path: text for path, text in files(project).items() if text}
    assert len(made) == 4
    for path, text in made.items():
        header = HEADER.match(text)
        assert header
        assert path.endswith(header[1])
        assert str(project.parent) not in text
        assert (ast.get_docstring(ast.parse(text)) or "test") == (
            ast.get_docstring(ast.parse(body(text))) or "test"
        )
        assert max(map(len, header[0].splitlines())) <= 100


@pytest.mark.parametrize(
    ("template", "shown"),
    [
        ("gh:somebody/a-fork", "gh:somebody/a-fork"),
        ("https://git.example/team/aiohttp-template.git", None),
        ("https://user:password@git.example/x.git", "gh:ORG/aiohttp-template"),
        ("https://git.example/x.git?token=1", "gh:ORG/aiohttp-template"),
        ("git@git.example:x.git", "gh:ORG/aiohttp-template"),
        ("/home/somebody/aiohttp-template", "gh:ORG/aiohttp-template"),
        ("C:\\aiohttp-template", "gh:ORG/aiohttp-template"),
        ("../aiohttp-template", "gh:ORG/aiohttp-template"),
    ],
)
def test_a_header_names_the_template_but_no_path_and_no_password(
    template: str, shown: str | None
) -> None:
    answers = {"_template": template, "__template": "gh:ORG/aiohttp-template", "__version__": "1"}
    text = LIFT["header"]("patterns/x.py", "x", "", answers)
    assert f" cookiecutter {shown or template} --directory" in text


def test_the_same_again_changes_nothing_and_says_so(template: Path, project: Path) -> None:
    lift(template, project, patterns="cors,errors")
    before = files(project)
    done = lift(template, project, patterns="errors,cors")
    assert done.returncode == 0, done.stderr
    assert files(project) == before
    assert done.stdout.count("  same     ") == 4
    assert "written" not in done.stdout


def test_a_file_that_differs_is_left_alone_shown_and_a_failure(
    template: Path, project: Path
) -> None:
    lift(template, project, patterns="cors")
    edited = project / "src" / "app" / "patterns" / "cors.py"
    edited.write_text(edited.read_text().replace("\n\nfrom ", "\nimport os\n\nfrom ", 1))
    before = files(project)
    done = lift(template, project, patterns="cors,errors")
    assert done.returncode == 1
    assert "src/app/patterns/cors.py  differs, left alone\n" in done.stdout
    assert "\n    -import os\n" in done.stdout
    assert "\n1 of 4 files differ" in done.stdout
    after = files(project)
    assert {path: after[path] for path in before} == before
    assert "src/app/patterns/errors.py" in after, "the others are written all the same"
    assert not (project / UNPACKED).exists()


def test_an_older_file_that_nobody_edited_is_told_from_an_edited_one(
    template: Path, project: Path
) -> None:
    lift(template, project, patterns="cors")
    path = project / "src" / "app" / "patterns" / "cors.py"
    answers = {"_template": "", "__template": "gh:ORG/aiohttp-template", "__version__": "0.0.1"}
    path.write_text(LIFT["header"]("patterns/cors.py", "cors", "OLD = 1\n", answers) + "OLD = 1\n")
    done = lift(template, project, patterns="cors")
    assert done.returncode == 1
    assert "cors.py  not edited since 0.0.1: delete it and run again to update\n" in done.stdout
    path.unlink()
    assert lift(template, project, patterns="cors").returncode == 0
    assert body(path.read_text()) == source("cors")


def test_a_copy_without_the_header_or_with_other_line_ends_is_the_same(
    template: Path, project: Path
) -> None:
    target = project / "src" / "app" / "patterns"
    target.mkdir(parents=True)
    (target / "cors.py").write_bytes(source("cors").replace("\n", "\r\n").encode())
    done = lift(template, project, patterns="cors")
    assert done.returncode == 0, done.stderr
    assert "  same     src/app/patterns/cors.py\n" in done.stdout
    assert not (target / "__init__.py").exists(), "a folder that is there is left as it is"


def test_into_a_generated_service_its_own_patterns_are_the_same(template: Path, bake: Bake) -> None:
    service = bake(fresh=True, redis=True).path
    before = files(service)
    done = lift(template, service, patterns="all", package="my_service.patterns")
    assert done.returncode == 0, done.stdout + done.stderr
    after = files(service)
    assert {path: after[path] for path in before} == before
    own = {stem(path) for path in SERVICE_SOURCES.glob("*.py*")} - {"__init__"}
    same = set(re.findall(r"  same     src/my_service/patterns/(\w+)\.py", done.stdout))
    assert same == own


@pytest.fixture(scope="module")
def unpacked(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder as the hook finds it."""
    folder = tmp_path_factory.mktemp("unpacked")
    lift(template, folder, "--accept-hooks", "no", patterns="errors")
    return folder / UNPACKED


@pytest.mark.parametrize(("name", "value"), REFUSED)
def test_a_bad_answer_is_refused_in_one_sentence_and_nothing_is_written(
    name: str, value: str, unpacked: Path
) -> None:
    given = (unpacked / "answers.json").read_text()
    (unpacked / "answers.json").write_text(json.dumps(json.loads(given) | {name: value}))
    done = subprocess.run(
        [sys.executable, "lift.py"], cwd=unpacked, check=False, capture_output=True, text=True
    )
    (unpacked / "answers.json").write_text(given)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(rf"{name}[ :].+\.\n", done.stderr)
    assert list(unpacked.parent.iterdir()) == [unpacked]


def test_a_refusal_leaves_nothing_behind_and_names_the_nearest_pattern(
    template: Path, project: Path
) -> None:
    done = lift(template, project, patterns="erors")
    assert done.returncode == 1
    assert "did you mean 'errors'?" in done.stderr.splitlines()[0]
    assert not list(project.iterdir())


def test_a_package_that_would_hide_a_module_is_refused(template: Path, project: Path) -> None:
    (project / "src").mkdir()
    (project / "src" / "app.py").touch()
    done = lift(template, project, patterns="errors")
    assert done.returncode == 1
    assert "a package beside src/app.py would hide it" in done.stderr
    assert list(files(project)) == ["src/app.py"]


@pytest.mark.parametrize(("there", "answer"), [("app", "."), ("src/app", "src")])
def test_a_package_that_lies_elsewhere_is_not_begun_anew(
    there: str, answer: str, template: Path, project: Path
) -> None:
    (project / there).mkdir(parents=True)
    (project / there / "__init__.py").touch()
    wrong = "src" if answer == "." else "lib"
    done = lift(template, project, patterns="errors", source_root=wrong)
    assert done.returncode == 1
    assert f"use source_root={answer}" in done.stderr
    assert list(files(project)) == [f"{there}/__init__.py"]


def test_the_tests_are_a_package_where_the_folder_around_them_is(
    template: Path, project: Path
) -> None:
    (project / "tests").mkdir()
    (project / "tests" / "__init__.py").touch()
    lift(template, project, patterns="errors")
    assert (project / "tests" / "patterns" / "__init__.py").is_file()


def test_without_hooks_the_files_wait_in_a_folder_that_says_what_to_do(
    template: Path, project: Path
) -> None:
    done = lift(template, project, "--accept-hooks", "no", patterns="errors")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in project.iterdir()] == [UNPACKED]
    assert "python lift.py" in (project / UNPACKED / "README.md").read_text()
    by_hand = subprocess.run(
        [sys.executable, "lift.py"], cwd=project / UNPACKED, check=False, capture_output=True
    )
    assert by_hand.returncode == 0
    shutil.rmtree(project / UNPACKED)
    assert body(files(project)["src/app/patterns/errors.py"]) == source("errors")


def test_the_project_may_be_elsewhere(template: Path, project: Path) -> None:
    done = lift(template, project.parent, "--output-dir", "project", patterns="cors")
    assert done.returncode == 0, done.stderr
    assert "src/app/patterns/cors.py" in files(project)
    assert list(project.parent.iterdir()) == [project]


def git(folder: Path, *arguments: str) -> None:
    me = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run(["git", *me, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def repository(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A git repository of the template."""
    folder = tmp_path_factory.mktemp("git") / "aiohttp-template"
    shutil.copytree(template, folder, symlinks=True)
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "x")
    return folder


def test_from_a_git_repository(repository: Path, project: Path) -> None:
    done = lift(f"git+file://{repository}", project, patterns="errors")
    assert done.returncode == 0, done.stderr
    assert body(files(project)["src/app/patterns/errors.py"]) == source("errors")


def without_links(repository: Path, folder: Path) -> Path:
    """What git gives where the system has no symbolic links: text files that hold the path."""
    git(folder, "-c", "core.symlinks=false", "clone", "--quiet", str(repository), "plain")
    assert not [path for path in (folder / "plain").rglob("*") if path.is_symlink()]
    return folder / "plain"


@pytest.mark.parametrize("relative", [True, False])
def test_a_checkout_without_links_is_read_where_the_links_point(
    relative: bool, repository: Path, project: Path
) -> None:
    plain = without_links(repository, project.parent)
    done = lift("../plain" if relative else plain, project, patterns="errors,rate_limit")
    assert done.returncode == 0, done.stderr
    made = files(project)
    for name in ("errors", "rate_limit"):
        assert body(made[f"src/app/patterns/{name}.py"]) == source(name)
        assert body(made[f"tests/patterns/test_{name}.py"]) == its_test(name, "app.patterns")


def test_a_zip_archive_is_read_where_its_links_point(repository: Path, project: Path) -> None:
    archive = project.parent / "aiohttp-template.zip"
    git(repository, "archive", "--prefix", "aiohttp-template-main/", "-o", str(archive), "HEAD")
    with zipfile.ZipFile(archive) as packed:
        modes = [entry.external_attr >> 16 for entry in packed.infolist()]
    assert any(stat.S_ISLNK(mode) for mode in modes), "as an archive from GitHub has them"
    done = lift(archive, project, patterns="errors")
    assert done.returncode == 0, done.stderr
    assert body(files(project)["src/app/patterns/errors.py"]) == source("errors")


def test_links_that_lead_nowhere_are_told_and_never_written(
    repository: Path, project: Path
) -> None:
    plain = without_links(repository, project.parent)
    shutil.rmtree(plain / "{{cookiecutter.project_slug}}")
    done = lift(plain, project, patterns="errors")
    assert done.returncode == 1
    assert done.stderr.startswith("The template came without symbolic links")
    assert "git clone -c core.symlinks=true" in done.stderr
    assert not list(project.iterdir())
