"""Every answer either gives a valid service or is refused with one sentence, nothing written."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from conftest import ROOT, Bake, Baked, generate, literally
from cookiecutter.exceptions import FailedHookException
from markdown_it import MarkdownIt

CLI = str(Path(sys.executable).with_name("cookiecutter"))

REFUSED = [
    *(("package_name", name) for name in ("", " ", "2fast", "my-service", "my.service", "a b")),
    *(("package_name", name) for name in ("Orders", "_orders", "café", "naïve", "ﬁne", "日本")),
    *(("package_name", name) for name in ("class", "None", "True", "async", "match", "type", "_")),
    *(("package_name", name) for name in ("json", "asyncio", "test", "tomllib", "distutils")),
    *(("package_name", name) for name in ("tests", "src", "scripts", "patterns", "requirements")),
    *(("package_name", name) for name in ("aiohttp", "pydantic", "pydantic_settings", "jwt")),
    *(("package_name", name) for name in ("prometheus_client", "pytest", "yarl", "dotenv", "con")),
    *(("package_name", name) for name in ("../up", "/tmp/x", "a/b", 'x"', "x\n", "a" * 41)),  # noqa: S108
    *(("project_slug", name) for name in ("", ".", "..", "../up", "/tmp/x", "a/b", "a\\b")),  # noqa: S108
    *(("project_slug", name) for name in ("My-Service", "my_service", "my service", "-x", "x-")),
    *(("project_slug", name) for name in ("a--b", "1st", "café", "x\n", "~", "a" * 41)),
    *(("project_slug", name) for name in ("aiohttp", "pyjwt", "pydantic-settings", "tests")),
    *(("project_name", name) for name in ("", " ", " padded", "two\nlines", "a\tb", "x" * 101)),
    *(("project_name", name) for name in ("nul\x00", "del\x7f", "c1\x85", "\u2028", "\u202e")),
    *(("description", text) for text in ("", "\n", "two\nlines", "cr\rlf", "\x1b[31m", "x" * 301)),
    *(("author_name", name) for name in ("Lovelace, Ada", "two\nlines", "x" * 101, "pad ")),
    *(("author_email", mail) for mail in ("nobody", "a@b@c", "a b@c", "<a@b>", '"a"@b', "a@b\n")),
    ("author_email", "a" * 250 + "@b.cd"),
    *((name, "maybe") for name in ("example_api", "redis", "docker")),
    *(("redis", answer) for answer in ("", "None", "2", "redis://127.0.0.1")),
    *(("ci", name) for name in ("maybe", "gitlab", "GitHub", "", "yes")),
    *(("license", name) for name in ("GPL-3.0", "mit", "")),
]

HOSTILE = [
    "He said \"hi\" and 'bye'",
    '""" + __import__(\'os\').abort() + """',
    "''' # comment",
    "ends with a backslash \\",
    "\\",
    '\\"',
    "\\n \\u0041 \\x41 \\N{DASH}",
    "{}",
    "{{ 7 * 7 }}",
    "{{ cookiecutter }}",
    "{% if",
    "{% raw %}{% endraw %}",
    "{# comment #}",
    "%s %(x)s $HOME ${HOME} $(id) `id`",
    "; rm -rf / #",
    "a = [1] # toml",
    "]]] }}} = { [",
    "key: value - item",
    "- item",
    "+ item",
    "1. one",
    "12) twelve",
    "# heading #",
    "> quote",
    "--- ",
    "===",
    "~~~",
    "```sh",
    "    indented".strip() + "  twice  spaced",
    "a | b | c",
    "*bold* _it_ ~gone~ [x](y) ![z](w) <b>html</b> <!-- c --> &amp; &#42; https://x.y",
    "Café ÅÄÖ 日本語 עברית",
    "👩‍💻 ships 🚀",
    "¿Qué? «ça» … —",
]


@pytest.mark.parametrize(("name", "value"), REFUSED)
def test_a_bad_answer_is_refused_in_one_sentence_and_nothing_is_left(
    name: str, value: str, template: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "deep" / "out"
    out.mkdir(parents=True)
    chosen = name in {"example_api", "redis", "docker", "ci", "license"}
    answer = value if chosen else literally(value)
    with pytest.raises((FailedHookException, ValueError)) as refusal:
        generate(template, out, {name: answer})
    assert [*tmp_path.rglob("*")] == [out.parent, out]
    if isinstance(
        refusal.value, ValueError
    ):  # cookiecutter checks a choice itself, newer ones a boolean
        assert name in str(refusal.value)
        return
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith(name)]
    assert len(lines) == 1
    assert lines[0].endswith(".")
    assert lines[0].isascii()


def test_each_bad_answer_has_its_own_line(
    template: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(FailedHookException):
        generate(
            template,
            tmp_path,
            {"package_name": "class", "author_email": "nobody", "project_name": ""},
        )
    told = [line.split()[0] for line in capfd.readouterr().err.splitlines() if " use " in line]
    assert told[:3] == ["project_name", "author_email", "package_name"]


def test_the_command_line_exits_nonzero_and_shows_the_sentence(
    template: Path, tmp_path: Path
) -> None:
    command = [CLI, "--no-input", "-o", str(tmp_path), str(template), "package_name=class"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("package_name 'class' is a Python keyword: ")
    assert not [*tmp_path.iterdir()]


def test_a_refused_answer_leaves_an_existing_project_alone(template: Path, tmp_path: Path) -> None:
    existing = tmp_path / "my-service"
    existing.mkdir()
    (existing / "mine.txt").write_text("mine")
    command = [CLI, "--no-input", "-f", "-o", str(tmp_path), str(template), "package_name=class"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 1
    assert [file.name for file in existing.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("value", "means"),
    [
        *((value, False) for value in ("no", "n", "false", "False", "f", "0", "off")),
        *((value, True) for value in ("yes", "y", "true", "True", "t", "1", "on")),
    ],
)
def test_the_command_line_can_say_yes_and_no(
    value: str, means: bool, template: Path, tmp_path: Path, bake: Bake
) -> None:
    booleans = ("example_api", "redis", "docker")
    command = [CLI, "--no-input", "-o", str(tmp_path), str(template)]
    subprocess.run(
        [*command, *(f"{name}={value}" for name in booleans)], capture_output=True, check=True
    )
    wanted = bake(example_api=means, redis=means, docker=means)
    assert Baked(tmp_path / "my-service").tree() == wanted.tree()


@pytest.mark.parametrize(
    ("title", "slug"),
    [
        ("Order Desk", "order-desk"),
        ("Café Ångström", "cafe-angstrom"),
        ("日本語", "ri-ben-yu"),
        ('Ana\'s "best" service', "ana-s-best-service"),
        ("🚀", "my-service"),
        ("C++ / Rust & Go!", "c-rust-go"),
    ],
)
def test_slug_and_package_derive_from_any_name(title: str, slug: str, bake: Bake) -> None:
    service = bake(project_name=literally(title))
    assert service.path.name == slug
    assert (service.path / "src" / slug.replace("-", "_") / "__init__.py").is_file()


def test_a_name_from_which_no_package_derives_is_refused_by_name(
    template: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(FailedHookException):
        generate(template, tmp_path, {"project_name": "2048 Game"})
    assert capfd.readouterr().err.startswith("project_slug '2048-game' is not a name")


@pytest.mark.parametrize("text", HOSTILE)
def test_free_text_survives_into_toml_markdown_and_the_licence(text: str, bake: Bake) -> None:
    text = text.strip()
    author = text.replace(",", "")
    service = bake(
        project_name=literally(text),
        project_slug="order-desk",
        description=literally(text),
        author_name=literally(author),
        author_email="ada@example.org",
    )
    project = tomllib.loads(service.read("pyproject.toml"))["project"]
    assert project["description"] == text
    assert project["authors"] == [{"name": author, "email": "ada@example.org"}]
    tokens = MarkdownIt().parse(service.read("README.md"))
    assert [token.type for token in tokens[:6]] == [
        *("heading_open", "inline", "heading_close"),
        *("paragraph_open", "inline", "paragraph_close"),
    ]
    for inline in (tokens[1], tokens[4]):
        assert {child.type for child in inline.children or []} == {"text"}
        assert "".join(child.content for child in inline.children or []) == text
    assert f"Copyright (c) {author}\n" in service.read("LICENSE")
    kept = json.loads(service.read(".answers.json"))
    assert (kept["project_name"], kept["description"], kept["author_name"]) == (text, text, author)
    only_text = {".answers.json", "pyproject.toml", "README.md", "LICENSE"}
    plain = bake(project_slug="order-desk").tree()
    assert {name for name, data in service.tree().items() if plain[name] != data} == only_text


def test_an_answer_that_is_typed_is_not_run_as_jinja(template: Path, tmp_path: Path) -> None:
    typed = ["{{ 7 * 7 }}", "order-desk", "", "{% raw", *[""] * 7]
    subprocess.run(
        [CLI, "-o", str(tmp_path), str(template)],
        input="\n".join(typed) + "\n",
        capture_output=True,
        text=True,
        check=True,
    )
    made = tmp_path / "order-desk"
    assert (
        tomllib.loads((made / "pyproject.toml").read_text())["project"]["description"] == "{% raw"
    )
    assert (made / "README.md").read_text().startswith("# {{ 7 \\* 7 }}\n")


def test_author_is_left_out_or_partial_when_not_given(bake: Bake) -> None:
    def authors(**answers: str) -> object:
        service = bake(**answers)
        return tomllib.loads(service.read("pyproject.toml"))["project"].get("authors")

    assert authors() is None
    assert authors(author_name="Ada") == [{"name": "Ada"}]
    assert authors(author_email="ada@example.org") == [{"email": "ada@example.org"}]


def test_every_question_is_asked_in_a_human_sentence() -> None:
    context = json.loads((ROOT / "cookiecutter.json").read_text())
    questions = [name for name in context if not name.startswith("_")]
    assert [*context["__prompts__"]] == questions
    assert all("?" in sentence for sentence in context["__prompts__"].values())


def test_the_readme_tells_of_every_question() -> None:
    context = json.loads((ROOT / "cookiecutter.json").read_text())
    _, _, after = (ROOT / "README.md").read_text().partition("\n## The questions\n")
    rows = [line for line in after.partition("\n## ")[0].splitlines() if line.startswith("| `")]
    told = [name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert told == [name for name in context if not name.startswith("_")]
