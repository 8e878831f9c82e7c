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
LINK = re.compile(r"\.\./[^\n]+\.py")
NO_SOURCES = """\
The template came without symbolic links (a zip archive, or git with core.symlinks=false), and the
files they point to were not found, so nothing was written. Either use the address of the git
repository, or clone it with `git clone -c core.symlinks=true` and give the clone's absolute path."""


class Refused(Exception):
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
        files = {code / (n + ".py"): ("patterns/" + n + ".py", n, shelf[n]) for n in names}
        for name, text in read_shelf("tests", answers).items():
            if name[5:] in names:  # without test_
                source = "tests/patterns/" + name + ".py"
                text = text.replace(PACKAGE, answers["package"])
                files[tests / (name + ".py")] = (source, name[5:], text)
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
            hint = " did you mean %r?" % near[0] if near else ""
            raise Refused(
                "patterns: %a is not on the shelf:%s patterns=list shows what is." % (name, hint)
            )
    if not names:
        raise Refused("patterns must not be empty: use names, all, or list to see them.")
    return sorted(set(names))


def folders(answers):
    """The project, where modules go and where tests go; all three inside of the project."""
    package, project = answers["package"], HERE.parent
    for part in package.split("."):
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", part) or keyword.iskeyword(part):
            raise Refused("package %a is not a name to import: use one like app.patterns." % package)
    top = package.split(".")[0]
    if top in set(getattr(sys, "stdlib_module_names", ())) | {"aiohttp", "pytest"}:
        raise Refused("package %a would hide the module %s: use another name." % (package, top))
    for name in ("source_root", "tests"):
        inside = all(re.fullmatch(r"[\w.-]+", p) and p != ".." for p in answers[name].split("/"))
        if not inside:
            raise Refused(
                "%s %a is not a folder of the project: use one like src/web, or a dot for the"
                " project itself." % (name, answers[name])
            )
    root = project / answers["source_root"]
    for other in (".", "src"):
        if not (root / top).is_dir() and (project / other / top / "__init__.py").is_file():
            place = project.name if other == "." else other
            raise Refused("package %s is in %s: use source_root=%s." % (top, place, other))
    code = root
    for part in package.split("."):
        if code.joinpath(part + ".py").is_file():
            module = code.joinpath(part + ".py").relative_to(project).as_posix()
            raise Refused("a package beside %s would hide it: use another package." % module)
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
        print("  written  " + shown)
        return True
    there = path.read_text(encoding="utf-8", errors="replace")
    marked = HEADER.match(there)
    mine = there[marked.end() :] if marked else there
    if mine == body:
        print("  same     " + shown)
        return True
    state = "differs, left alone"
    if marked and marked[2] == digest(mine):
        state = "not edited since %s: delete it and run again to update" % marked[1]
    print("  %s  %s" % (shown, state))
    now = "aiohttp-template %s, %s" % (answers["__version__"], source)
    pair = (mine.splitlines(), body.splitlines())
    for line in difflib.unified_diff(*pair, shown, now, lineterm=""):
        print("    " + line)
    return False


def header(source, name, body, answers):
    """Where the file came from, what it was, and the command that compares."""
    template = answers["_template"]
    # An abbreviation or a plain address; never a path, nor an address that may hold a password.
    if not re.fullmatch(r"(\w+:|https://)[\w./-]+", template):
        template = answers["__template"]
    values = (answers["__version__"], source, digest(body), template, name)
    return (
        "# aiohttp-template %s, %s, sha256 %s.\n"
        "# Compare or update: cookiecutter %s --directory patterns patterns=%s\n" % values
    )


def digest(body):
    return hashlib.sha256(body.encode("utf-8")).hexdigest()[:12]


def parts(text):
    """The docstring's first paragraph, and its marked ones by their word."""
    doc = text.split('"""')[1]
    blocks = re.split(r"^(Wiring::|Needs:|Order:|Not:)", doc, flags=re.MULTILINE)
    found = dict(zip(blocks[1::2], blocks[2::2]))
    return blocks[0].split("\n\n")[0].replace("\n", " "), found


def needs(text):
    """The requirements that a pattern names, such as aiohttp>=3.14.4."""
    found = parts(text)[1].get("Needs:", "")
    return [n.strip() for n in " ".join(found.split()).split(",") if re.search("[<>=]", n)]


def print_table(shelf):
    width = max(map(len, shelf))
    for name, text in shelf.items():
        print("%s  %s" % (name.ljust(width), parts(text)[0]))
        print("%s  needs %s" % (" " * width, ", ".join(needs(text)) or "the standard library"))
    print("\nNothing was written. Run again with patterns=NAME,NAME or patterns=all.")


def print_wiring(names, shelf, answers):
    """What is left to do: the patterns change no line of the project."""
    for name in names:
        title, found = parts(shelf[name])
        public = re.search(r"^__all__ = \[(.*?)\]", shelf[name], re.MULTILINE | re.DOTALL)
        imported = ", ".join(re.findall(r'"(\w+)"', public[1])) if public else name
        print("\n" + title + "\n")
        print("    from %s.%s import %s\n" % (answers["package"], name, imported))
        print(textwrap.indent(textwrap.dedent(found.get("Wiring::", "")).strip("\n"), "    ") + "\n")
        for word in ("Needs:", "Order:", "Not:"):
            if word in found:
                print(textwrap.indent(word + found[word].rstrip(), "  "))
    packages = sorted({need for name in names for need in needs(shelf[name])})
    if packages:
        print("\nAdd to what your project installs: " + " ".join('"%s"' % p for p in packages))
    print("For the tests: pytest pytest-aiohttp. Then:\n")
    tests = " ".join("%s/test_%s.py" % (answers["tests"], name) for name in names)
    print("    python -m pytest -o asyncio_mode=auto " + tests)


def print_differing(differing, count):
    if differing:
        print(
            "\n%d of %d files differ from the source and were left alone (- yours, + the source):"
            % (len(differing), count)
        )
        for path in differing:
            print("  " + path.relative_to(HERE.parent).as_posix())
        print("What changed from version to version: patterns/CHANGELOG.md in the template.")
        print("(The exit code is 1, for scripts; cookiecutter calls that a failed hook.)", flush=True)
    return bool(differing)


if __name__ == "__main__":
    sys.exit(main())
