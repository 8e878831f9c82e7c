import asyncio
from pathlib import Path
from textwrap import dedent

import pytest
from aiohttp import web
from pytest_aiohttp.plugin import AiohttpClient

from {{cookiecutter.package_name}}.patterns import static_files as pattern
from {{cookiecutter.package_name}}.patterns.static_files import has_hash, static_files

PAGE = {"Accept": "text/html,*/*"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "public"
    (root / "assets").mkdir(parents=True)
    (root / "index.html").write_text("<h1>page</h1>")
    (root / "assets" / "app.3f2a9c1b.js").write_text("run()")
    (root / "assets" / "logo.svg").write_text("<svg/>")
    (root / ".env").write_text("SECRET=1")
    (root / ".git").mkdir()
    (root / ".git" / "config").write_text("secret")
    (tmp_path / "outside.txt").write_text("secret")
    (root / "link.txt").symlink_to(tmp_path / "outside.txt")
    return root


def make_app(folder: Path, fallback: str | None = None) -> web.Application:
    app = web.Application()
    app.router.add_get("/{path:.*}", static_files(folder, fallback=fallback))
    return app


async def test_a_file_with_a_hash_in_its_name_is_kept_for_a_year(
    aiohttp_client: AiohttpClient, folder: Path
) -> None:
    client = await aiohttp_client(make_app(folder))
    async with client.get("/assets/app.3f2a9c1b.js") as response:
        assert await response.text() == "run()"
        assert response.headers["Cache-Control"] == "public, max-age=31536000, immutable"
        assert response.headers["X-Content-Type-Options"] == "nosniff"


async def test_any_other_is_asked_for_again_and_not_sent_again(
    aiohttp_client: AiohttpClient, folder: Path
) -> None:
    client = await aiohttp_client(make_app(folder))
    async with client.get("/assets/logo.svg") as response:
        assert response.headers["Cache-Control"] == "no-cache"
        etag = response.headers["ETag"]
    async with client.get("/assets/logo.svg", headers={"If-None-Match": etag}) as response:
        assert (response.status, await response.read()) == (304, b"")
        assert response.headers["Cache-Control"] == "no-cache"


async def test_head_and_ranges_are_aiohttp_s(aiohttp_client: AiohttpClient, folder: Path) -> None:
    client = await aiohttp_client(make_app(folder))
    async with client.head("/index.html") as response:
        assert (response.status, response.content_length) == (200, 13)
    async with client.get("/index.html", headers={"Range": "bytes=4-7"}) as response:
        assert (response.status, await response.text()) == (206, "page")


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/assets",
        "/assets/",
        "/missing.js",
        "/.env",
        "/.git/config",
        "/assets/../.env",
        "/link.txt",
        "/../outside.txt",
        "/%2e%2e/outside.txt",
        "/..%2foutside.txt",
        "/assets/..%2f..%2foutside.txt",
        "/%2fetc/passwd",
        "//etc/passwd",
        "/index.html%00.js",
        "/" + "x" * 5000,
        "/index.html/",
        "/index.html/more",
    ],
)
async def test_everything_else_is_not_there(
    aiohttp_client: AiohttpClient, folder: Path, path: str
) -> None:
    client = await aiohttp_client(make_app(folder))
    host, port = client.host, client.port
    reader, writer = await asyncio.open_connection(host, port)  # a client would tidy the path
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert b"secret" not in answer.lower()


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/", PAGE, 200),
        ("/orders/7", PAGE, 200),
        ("/orders/7", {"Accept": "application/json"}, 404),
        ("/orders/7", {}, 404),
        ("/assets/old.77aa88bb.js", PAGE, 404),
    ],
)
async def test_a_page_that_only_the_browser_knows_gets_the_fallback(
    aiohttp_client: AiohttpClient, folder: Path, path: str, headers: dict[str, str], status: int
) -> None:
    client = await aiohttp_client(make_app(folder, "index.html"))
    async with client.get(path, headers=headers) as response:
        assert response.status == status
        if status == 200:
            assert response.headers["Cache-Control"] == "no-cache"
            assert await response.text() == "<h1>page</h1>"


async def test_a_fallback_is_never_kept_whatever_its_name(
    aiohttp_client: AiohttpClient, folder: Path
) -> None:
    client = await aiohttp_client(make_app(folder, "assets/app.3f2a9c1b.js"))
    async with client.get("/orders/7", headers=PAGE) as response:
        assert response.headers["Cache-Control"] == "no-cache"


async def test_headers_given_are_sent_with_every_file(
    aiohttp_client: AiohttpClient, folder: Path
) -> None:
    headers = {"Content-Security-Policy": "default-src 'self'"}
    app = web.Application()
    app.router.add_get("/{path:.*}", static_files(folder, headers=headers))
    client = await aiohttp_client(app)
    async with client.get("/index.html") as response:
        assert response.headers["Content-Security-Policy"] == "default-src 'self'"
        assert response.headers["Cache-Control"] == "no-cache"


async def test_a_new_version_of_a_file_is_seen(aiohttp_client: AiohttpClient, folder: Path) -> None:
    client = await aiohttp_client(make_app(folder))
    async with client.get("/index.html") as response:
        etag = response.headers["ETag"]
    (folder / "index.html").write_text("<h1>new page</h1>")
    async with client.get("/index.html", headers={"If-None-Match": etag}) as response:
        assert await response.text() == "<h1>new page</h1>"


@pytest.mark.parametrize(
    ("name", "hashed"),
    [
        ("app.3f2a9c1b.js", True),
        ("app-3f2a9c1b0d.css", True),
        ("app.js", False),
        ("report-20240101.pdf", False),
        ("app-deadbeef.js", False),
        ("settings.js", False),
        ("3f2a9c1b.js", False),
    ],
)
def test_a_date_or_a_word_is_no_hash(name: str, hashed: bool) -> None:
    assert has_hash(name) is hashed


@pytest.mark.parametrize(("name", "fallback"), [("missing", None), (".", "missing.html")])
def test_what_is_not_there_is_refused_at_start(
    folder: Path, name: str, fallback: str | None
) -> None:
    with pytest.raises(ValueError, match="no such"):
        static_files(folder / name, fallback=fallback)


async def test_the_wiring_of_the_docstring_works(
    aiohttp_client: AiohttpClient, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    app = web.Application()
    names: dict[str, object] = {"app": app, "static_files": static_files}
    exec(dedent((pattern.__doc__ or "").split("Wiring::")[1].split("Needs:")[0]), names)  # noqa: S102
    client = await aiohttp_client(app)
    async with client.get("/anything", headers=PAGE) as response:
        assert await response.text() == "<h1>page</h1>"
