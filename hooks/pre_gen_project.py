"""Refuse answers from which no working service could be made, before any file is written.

Every refused answer is one line: its name, its value, and what would be accepted.
"""

import json
import keyword
import re
import sys
import unicodedata

ANSWERS = json.loads(r"""{{ cookiecutter | tojson }}""")

LIMITS = {"project_name": 100, "description": 300, "author_name": 100, "author_email": 254}
MAX_NAME = 40  # longer package names would break the lines of the generated tests anew
BIDIRECTIONAL = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")  # hide what is there

# The standard library of any supported Python, whichever one runs this hook.
STDLIB = set(getattr(sys, "stdlib_module_names", ())) | set(
    """annotationlib asynchat asyncore compression distutils imp smtpd test tomllib
    aifc audioop cgi cgitb chunk crypt imghdr lib2to3 mailcap msilib nis nntplib ossaudiodev pipes
    sndhdr spwd sunau telnetlib uu xdrlib""".split()
)
# Folders of the service, and names under which its dependencies install or are imported.
TAKEN = set(
    """conftest docs patterns requirements scripts site src tests
    aiohappyeyeballs aiohttp aiosignal annotated_types ast_serialize async_timeout attr
    attrs cffi click colorama coverage cryptography dotenv flit_core frozenlist grimp
    hypothesis idna import_linter importlinter iniconfig jwt librt markdown_it
    markdown_it_py mdurl multidict mypy mypy_extensions mypyc offapi packaging pathspec pip
    pkg_resources pluggy prometheus_client propcache py pycparser pydantic pydantic_core
    pydantic_settings pygments pyjwt pytest pytest_aiohttp pytest_asyncio pytest_cov
    python_dotenv redis rich ruff setuptools supervisor typing_extensions typing_inspection uv wheel
    yarl""".split()
)
SOFT_KEYWORDS = {"case", "match", "type"}
RESERVED_BY_WINDOWS = {"aux", "con", "nul", "prn"}


def problems(answers):
    """One sentence for each answer that is refused."""
    for name, limit in LIMITS.items():
        yield from free_text(name, answers[name], limit)
    if not answers["project_name"]:
        yield "project_name must not be empty: use a title for people, such as 'Order Desk'."
    if not answers["description"]:
        yield "description must not be empty: use one sentence, such as 'Takes and tracks orders'."
    if "," in answers["author_name"]:
        yield "author_name must not hold a comma, which pyproject.toml forbids: use 'Ada Lovelace'."
    email = answers["author_email"]
    if (
        email
        and email.isprintable()
        and not re.fullmatch(r"""[^\s@<>()",:;\\]+@[^\s@<>()",:;\\]+""", email)
    ):
        yield f"author_email {email!a} is not an address: leave it empty or use 'ada@example.org'."
    for name in ("example_api", "redis", "docker"):
        if not isinstance(answers[name], bool):
            yield f"{name} {answers[name]!a} is not an answer: use yes or no."
    asked_slug, package_name = answers["__project_slug_as_answered"], answers["package_name"]
    bad_slug = list(slug(asked_slug))
    yield from bad_slug
    if not (bad_slug and package_name == asked_slug.replace("-", "_")):  # then it is derived
        yield from package(package_name)


def free_text(name, value, limit):
    if len(value) > limit:
        yield f"{name} is too long ({len(value)} characters): use at most {limit}."
    for char in value:
        if unicodedata.category(char) in {"Cc", "Cs", "Zl", "Zp"} or char in BIDIRECTIONAL:
            yield f"{name} holds {char!a}: use one line of printable text."
            return
    if value != value.strip():
        yield f"{name} {value!a} begins or ends with a space: use the text alone."


def slug(value):
    accepted = (
        f"use lower-case letters a-z, digits and single hyphens, beginning with a letter, at most"
        f" {MAX_NAME} characters, such as 'order-desk'."
    )
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", value) or len(value) > MAX_NAME:
        yield f"project_slug {value!a} is not a name for the folder: {accepted}"
    elif value.replace("-", "_") in TAKEN | RESERVED_BY_WINDOWS:
        yield f"project_slug {value!a} is taken by the service itself: use another name."


def package(value):
    accepted = (
        f"use lower-case letters a-z, digits and underscores, beginning with a letter, at most"
        f" {MAX_NAME} characters, such as 'order_desk'."
    )
    if keyword.iskeyword(value) or value in SOFT_KEYWORDS:
        yield f"package_name {value!a} is a Python keyword: {accepted}"
    elif not re.fullmatch(r"[a-z][a-z0-9_]*", value) or len(value) > MAX_NAME:
        yield f"package_name {value!a} is not a name to import: {accepted}"
    elif value in STDLIB:
        yield f"package_name {value!a} is a module of the standard library: use another name."
    elif value in TAKEN | RESERVED_BY_WINDOWS:
        yield f"package_name {value!a} is taken by the service itself: use another name."


if refused := list(problems(ANSWERS)):
    print("\n".join(refused), file=sys.stderr)
    sys.exit(1)
