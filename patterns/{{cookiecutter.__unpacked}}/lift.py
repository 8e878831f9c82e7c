"""Put the chosen patterns into the project around this folder: never over a file that differs.

Cookiecutter's hook runs it; where hooks are off, run it by hand. Answers are in `answers.json`.
Standard library only, and for whatever Python cookiecutter itself runs on.
"""

import difflib
import hashlib
import json
import keyword
import os
import re
import sys
import textwrap
from pathlib import Path

HERE = Path(__file__).resolve().parent
FOLDER = "{{cookiecutter.__unpacked}}"  # this one's name in the template
PACKAGE = "{{cookiecutter.package_name}}.patterns"  # how tests in the template name the shelf
HEADER = re.compile(r"# aiohttp-template (\S+), \S+, sha256 ([0-9a-f]{12})\.\n# Compare.*\n")
# A symbolic link as a text file: what a zip archive, and git without symbolic links, leave behind.
LINK = re.compile(r"\.\./[^\n]+\.py(\{% endif %\})?")
NO_SOURCES = """\
The template came without symbolic links (a zip archive, or git with core.symlinks=false), and the
files they point to were not found, so nothing was written. Use the address of the git repository,
or clone it with `git clone -c core.symlinks=true` and give the absolute path of that clone."""


class Refused(Exception):  # noqa: N818  # no error of the program
    """One sentence for the person who answered."""


def main():
    """0; 1 when an answer is refused, or when files that differ were left alone."""
    answers = json.loads((HERE / "answers.json").read_text(encoding="utf-8"))
    try:
        shelf = read_shelf("src", answers)
        if answers["patterns"].strip() == "list":
            print_table(shelf)
            return 0
        names = chosen(answers["patterns"], shelf)
        root, code, tests = folders(answers)
        files = {code / (n + ".py"): (f"patterns/{n}.py", n, shelf[n]) for n in names}
        for test, text in read_shelf("tests", answers).items():
            name = test[len("test_") :]
            if name in names:
                body = text.replace(PACKAGE, answers["package"])
                files[tests / (test + ".py")] = (f"tests/patterns/{test}.py", name, body)
        make_folders(root, code, tests)
        new = {files[path][1] for path in files if not path.exists()}
        differing = [path for path, file in files.items() if not put(path, *file, answers)]
        if new:
            print_wiring(sorted(new), shelf, answers)
        return 1 if print_differing(differing, len(files)) else 0
    except (Refused, OSError) as error:
        print(error, file=sys.stderr)
        return 1


def read_shelf(kind, answers):
    """The sources of this folder by name, through links that a checkout has turned into text."""
    shelf = {}
    for path in sorted((HERE / kind).glob("*.py")):
        text = path.read_text(encoding="utf-8")
        if LINK.fullmatch(text.strip()):
            text = followed(os.path.join(FOLDER, kind, text.strip()), answers)
        shelf[path.stem] = text
    return shelf


def followed(link, answers):
    """What a link points to; a relative `_repo_dir` starts where cookiecutter was started."""
    for start in (answers["_output_dir"], os.environ.get("PWD", "")):
        path = Path(os.path.normpath(os.path.join(start, answers["_repo_dir"], link)))
        if path.is_absolute() and path.is_file():
            return path.read_text(encoding="utf-8")
    raise Refused(NO_SOURCES)


def chosen(answer, shelf):
    names = [name for name in re.split(r"[\s,]+", answer) if name]
    if names == ["all"]:
        return sorted(shelf)
    for name in names:
        if name not in shelf:
            near = difflib.get_close_matches(name, shelf, 1)
            hint = f" did you mean {near[0]!r}?" if near else ""
            raise Refused(
                f"patterns: {name!a} is not on the shelf:{hint} patterns=list shows what is."
            )
    if not names:
        raise Refused("patterns must not be empty: use names, all, or list to see them.")
    return sorted(set(names))


def folders(answers):
    """The project, where modules go and where tests go; all three inside of the project."""
    package, project = answers["package"], HERE.parent
    for part in package.split("."):
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", part) or keyword.iskeyword(part):
            raise Refused(
                f"package {package!a} is not a name to import: use one like app.patterns."
            )
    top = package.split(".")[0]
    if top in set(getattr(sys, "stdlib_module_names", ())) | {"aiohttp", "pytest"}:
        raise Refused(f"package {package!a} would hide the module {top}: use another name.")
    for name in ("source_root", "tests"):
        inside = all(re.fullmatch(r"[\w.-]+", p) and p != ".." for p in answers[name].split("/"))
        if not inside:
            raise Refused(
                f"{name} {answers[name]!a} is not a folder of the project: use one like src/web,"
                " or a dot for the project itself."
            )
    root = project / answers["source_root"]
    for other in (".", "src"):
        if not (root / top).is_dir() and (project / other / top / "__init__.py").is_file():
            place = project.name if other == "." else other
            raise Refused(f"package {top} is in {place}: use source_root={other}")
    code = root
    for part in package.split("."):
        if code.joinpath(part + ".py").is_file():
            module = code.joinpath(part + ".py").relative_to(project).as_posix()
            raise Refused(f"a package beside {module} would hide it: use another package.")
        code = code / part
    return root, code, project / answers["tests"]


def make_folders(root, code, tests):
    """Make what is missing; a test folder is a package where the folder around it is one."""
    for folder in [*reversed(code.parents), code]:
        if root in folder.parents and not folder.exists():
            folder.mkdir(parents=True)
            (folder / "__init__.py").touch()
    if not tests.exists():
        tests.mkdir(parents=True)
        if (tests.parent / "__init__.py").is_file():
            (tests / "__init__.py").touch()


def put(path, source, name, body, answers):
    """Write the file unless there is one; False when the one that is there differs."""
    shown = path.relative_to(HERE.parent).as_posix()
    if not path.exists():
        with path.open("x", encoding="utf-8", newline="\n") as file:
            file.write(header(source, name, body, answers) + body)
        print(f"  written  {shown}")
        return True
    there = path.read_text(encoding="utf-8", errors="replace")
    marked = HEADER.match(there)
    mine = there[marked.end() :] if marked else there
    if mine == body:
        print(f"  same     {shown}")
        return True
    state = "differs, left alone"
    if marked and marked[2] == digest(mine):
        state = f"not edited since {marked[1]}: delete it and run again to update"
    print(f"  {shown}  {state}")
    now = f"aiohttp-template {answers['__version__']}, {source}"
    pair = (mine.splitlines(), body.splitlines())
    for line in difflib.unified_diff(*pair, shown, now, lineterm=""):
        print(f"    {line}")
    return False


def header(source, name, body, answers):
    """Where the file came from, what it was, and the command that compares."""
    template = answers["_template"]
    # An abbreviation or a plain address; never a path, nor an address that may hold a password.
    if not re.fullmatch(r"(\w+:|https://)[\w./-]+", template):
        template = answers["__template"]
    version = answers["__version__"]
    return (
        f"# aiohttp-template {version}, {source}, sha256 {digest(body)}.\n"
        f"# Compare or update: cookiecutter {template} --directory patterns patterns={name}\n"
    )


def digest(body):
    return hashlib.sha256(body.encode("utf-8")).hexdigest()[:12]


def parts(text):
    """The docstring's first paragraph, and its marked ones by their word."""
    doc = text.split('"""')[1]
    blocks = re.split(r"^(Wiring::|Needs:|Order:|Not:)", doc, flags=re.MULTILINE)
    found = {blocks[i]: blocks[i + 1] for i in range(1, len(blocks), 2)}
    return blocks[0].split("\n\n")[0].replace("\n", " "), found


def needs(text):
    """The requirements that a pattern names, such as aiohttp>=3.14.4."""
    found = parts(text)[1].get("Needs:", "")
    return [n.strip() for n in " ".join(found.split()).split(",") if re.search("[<>=]", n)]


def print_table(shelf):
    width = max(map(len, shelf))
    for name, text in shelf.items():
        print(f"{name:<{width}}  {parts(text)[0]}")
        print(f"{'':<{width}}  needs {', '.join(needs(text)) or 'the standard library'}")
    print("\nNothing was written. Run again with patterns=NAME,NAME or patterns=all.")


def print_wiring(names, shelf, answers):
    """What is left to do: the patterns change no line of the project."""
    for name in names:
        title, found = parts(shelf[name])
        public = re.search(r"^__all__ = \[(.*?)\]", shelf[name], re.MULTILINE | re.DOTALL)
        imported = ", ".join(re.findall(r'"(\w+)"', public[1])) if public else name
        print("\n" + title + "\n")
        print(f"    from {answers['package']}.{name} import {imported}\n")
        print(
            textwrap.indent(textwrap.dedent(found.get("Wiring::", "")).strip("\n"), "    ") + "\n"
        )
        for word in ("Needs:", "Order:", "Not:"):
            if word in found:
                print(textwrap.indent(word + found[word].rstrip(), "  "))
    packages = sorted({need for name in names for need in needs(shelf[name])})
    if packages:
        print(
            "\nAdd to what your project installs: "
            + " ".join(f'"{package}"' for package in packages)
        )
    print("For the tests: pytest pytest-aiohttp. Then:\n")
    tests = [f"{answers['tests']}/test_{name}.py" for name in names]
    which = " ".join(tests if len(tests) < 5 else [answers["tests"]])
    options = f"-o asyncio_mode=auto -o pythonpath={answers['source_root']}"
    print(f"    python -m pytest {options} {which}")


def print_differing(differing, count):
    if differing:
        print(
            f"\n{len(differing)} of {count} files differ from the source and were left alone"
            " (- yours, + the source):"
        )
        for path in differing:
            print(f"  {path.relative_to(HERE.parent).as_posix()}")
        print("What changed from version to version: patterns/CHANGELOG.md in the template.")
        print(
            "(The exit code is 1, for scripts; cookiecutter calls that a failed hook.)", flush=True
        )
    return bool(differing)


if __name__ == "__main__":
    sys.exit(main())
