import json
import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest
from aiohttp import web
from pytest_aiohttp.plugin import AiohttpClient
from yarl import URL

from {{cookiecutter.package_name}}.patterns import docs_page as pattern
from {{cookiecutter.package_name}}.patterns.docs_page import docs_page


def make_app(path: str = "/docs", title: str = "Books", url: str = "o.json") -> web.Application:
    app = web.Application()
    pages = docs_page(title=title, openapi_url=url, path=path)
    app.add_routes(web.get(path, page) for path, page in pages.items())
    return app


def assets(html: str) -> dict[str, str]:
    links = re.findall(r'(?:src|href)="([^"]+)\?([^"]*)"', html)
    return {link.rpartition("/")[2]: f"{link}?{query}" for link, query in links}


async def test_the_page_and_all_its_parts_are_served(aiohttp_client: AiohttpClient) -> None:
    app = web.Application()
    wiring = (pattern.__doc__ or "").split("Wiring::")[1].split("Needs:")[0]
    exec(dedent(wiring), {"app": app, "docs_page": docs_page, "web": web})  # noqa: S102
    client = await aiohttp_client(app)
    async with client.get("/docs") as response:
        assert (response.status, response.content_type) == (200, "text/html")
        page, parts = response.url, assets(await response.text())
    assert parts.keys() == {"ui.css", "ui.js", "start.js"}
    for name, link in parts.items():
        async with client.get(page.join(URL(link)).relative()) as response:
            kind = "text/css" if name.endswith(".css") else "text/javascript"
            assert (response.status, response.content_type) == (200, kind)


@pytest.mark.parametrize("path", ["/docs", "/about/api"])
async def test_it_works_below_any_prefix(aiohttp_client: AiohttpClient, path: str) -> None:
    outer = web.Application()
    outer.add_subapp("/prefix", make_app(path))
    client = await aiohttp_client(outer)
    async with client.get(f"/prefix{path}") as response:
        page, parts = response.url, assets(await response.text())
    for link in parts.values():
        async with client.get(page.join(URL(link)).relative()) as response:
            assert response.status == 200


async def test_the_policy_allows_this_server_alone_and_nothing_inline(
    aiohttp_client: AiohttpClient,
) -> None:
    client = await aiohttp_client(make_app())
    async with client.get("/docs") as response:
        policy, html = response.headers["Content-Security-Policy"], await response.text()
    allowed = dict(part.split(" ", 1) for part in policy.split("; "))
    assert allowed.pop("img-src") == "'self' data:"
    assert set(allowed.values()) == {"'none'", "'self'"}
    assert not re.search(r"<style|<script>| on\w+=|style=|://", html)


async def test_assets_may_be_kept_because_other_contents_have_another_url(
    aiohttp_client: AiohttpClient,
) -> None:
    found: list[str] = []
    for url in ("one.json", "two.json", "one.json"):
        client = await aiohttp_client(make_app(url=url))
        async with client.get("/docs") as response:
            found.append(assets(await response.text())["start.js"])
            assert "immutable" not in response.headers.get("Cache-Control", "")
        async with client.get(found[-1]) as response:
            assert "immutable" in response.headers["Cache-Control"]
    assert found[0] == found[2] != found[1]


@pytest.mark.parametrize(
    "name", ["nothing.js", "__init__.py", "scalar.js", "..%2F__init__.py", "%2e%2e/ui.js", "ui.js/"]
)
async def test_nothing_else_is_served(aiohttp_client: AiohttpClient, name: str) -> None:
    client = await aiohttp_client(make_app())
    async with client.get(URL(f"/docs/{name}", encoded=True)) as response:
        assert response.status == 404


async def test_title_and_address_are_only_text(aiohttp_client: AiohttpClient) -> None:
    hostile = "\"'</script><b>%s"
    client = await aiohttp_client(make_app(title=hostile, url=hostile))
    async with client.get("/docs") as response:
        html = await response.text()
        assert "<title>&quot;&#x27;&lt;/script&gt;&lt;b&gt;%s</title>" in html
    async with client.get(assets(html)["start.js"]) as response:
        script = await response.text()
        assert json.JSONDecoder().raw_decode(script, script.index("(") + 1)[0]["url"] == hostile


def test_a_package_that_has_changed_fails_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "offapi-9.dist-info").mkdir()
    (tmp_path / "offapi-9.dist-info/METADATA").write_text("Name: offapi\nVersion: 9\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(FileNotFoundError, match="swagger_style"):
        docs_page(title="Books", openapi_url="openapi.json")


def test_the_package_is_not_imported() -> None:
    code = (
        f"import sys; from {docs_page.__module__} import docs_page;"
        "docs_page(title='', openapi_url=''); sys.exit('offapi' in sys.modules)"
    )
    path = str(Path(pattern.__file__).parents[pattern.__name__.count(".")])
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": path})  # noqa: S603 - our own code
