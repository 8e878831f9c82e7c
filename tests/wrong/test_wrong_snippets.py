"""Each snippet that the pages warn of fails as its page shows, where the pattern passes."""

import asyncio
import logging
from textwrap import dedent

import pytest

from .cases import CASES, ROOT, SHELF, SNIPPETS, Case

PAGES = ROOT / "docs" / "patterns"


def named(case: Case) -> str:
    return f"{case.page}-{case.check.__name__}"


@pytest.fixture(autouse=True)
def _quiet() -> None:
    logging.getLogger("aiohttp").setLevel(logging.CRITICAL)  # the snippets' tracebacks


@pytest.mark.parametrize("case", CASES, ids=named)
def test_the_snippet_fails_as_its_page_shows(case: Case) -> None:
    with pytest.raises(AssertionError) as failure:
        asyncio.run(case.check(case.wrong()))
    page = (PAGES / f"{case.page}.md").read_text(encoding="utf-8")
    assert f"{case.check.__name__}\nAssertionError: {failure.value}\n" in page


@pytest.mark.parametrize("case", CASES, ids=named)
def test_the_pattern_passes(case: Case) -> None:
    asyncio.run(case.check(case.right()))


def test_every_snippet_is_run() -> None:
    assert {case.page for case in CASES} == {path.stem for path in SNIPPETS.glob("*.py")}


@pytest.mark.parametrize("page", sorted({case.page for case in CASES}))
def test_a_page_shows_its_snippet_as_it_is(page: str) -> None:
    snippet = (SNIPPETS / f"{page}.py").read_text(encoding="utf-8").partition("\n\n")[2]
    assert f"```python\n{snippet}```\n" in (PAGES / f"{page}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", sorted({case.page for case in CASES}))
def test_a_page_shows_the_wiring_of_the_pattern_s_docstring(page: str) -> None:
    source = (SHELF / f"{page}.py").read_text(encoding="utf-8")
    wiring = dedent(source.partition("Wiring::\n")[2].partition("\nNeeds:")[0]).strip("\n")
    assert f"```python\n{wiring}\n```\n" in (PAGES / f"{page}.md").read_text(encoding="utf-8")


def test_the_index_names_every_page() -> None:
    index = (PAGES / "README.md").read_text(encoding="utf-8")
    missing = [path.name for path in PAGES.glob("*.md") if f"({path.name})" not in index]
    assert missing == ["README.md"]
