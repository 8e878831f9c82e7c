from textwrap import dedent

import pytest
from aiohttp import web
from pytest_aiohttp.plugin import AiohttpClient

from {{cookiecutter.package_name}}.patterns import cors as pattern
from {{cookiecutter.package_name}}.patterns.cors import cors_headers, cors_preflight

FRIEND, STRANGER = "https://app.example", "https://elsewhere.example"
ASKS = {"Access-Control-Request-Method": "POST"}


async def ok(request: web.Request) -> web.Response:
    return web.Response(headers={"Cross-Origin-Resource-Policy": "same-origin"})


async def options(request: web.Request) -> web.Response:
    return web.Response(text="options")


def make_app() -> web.Application:
    app = web.Application()
    app.router.add_get("/thing", ok)
    app.router.add_options("/thing", options)
    names = {"app": app, "cors_headers": cors_headers, "cors_preflight": cors_preflight}
    exec(dedent((pattern.__doc__ or "").split("Wiring::")[1].split("Needs:")[0]), names)  # noqa: S102
    return app


@pytest.mark.parametrize("path", ["/thing", "/nowhere"])
async def test_a_friend_may_read_answers_and_errors(
    aiohttp_client: AiohttpClient, path: str
) -> None:
    client = await aiohttp_client(make_app())
    async with client.get(path, headers={"Origin": FRIEND}) as response:
        assert response.headers["Access-Control-Allow-Origin"] == FRIEND
        assert "X-Request-ID" in response.headers["Access-Control-Expose-Headers"]
        assert response.headers.get("Cross-Origin-Resource-Policy") != "same-origin"


@pytest.mark.parametrize("origin", [STRANGER, "null", "https://app.example.evil.example"])
async def test_a_stranger_may_not(aiohttp_client: AiohttpClient, origin: str) -> None:
    client = await aiohttp_client(make_app())
    async with client.get("/thing", headers={"Origin": origin}) as response:
        assert "Access-Control-Allow-Origin" not in response.headers


async def test_a_shared_cache_is_told_that_answers_differ(aiohttp_client: AiohttpClient) -> None:
    client = await aiohttp_client(make_app())
    async with client.get("/thing") as response:
        assert response.headers["Vary"] == "Origin"
        assert "Access-Control-Allow-Origin" not in response.headers


@pytest.mark.parametrize("path", ["/thing", "/nowhere"])
async def test_a_preflight_of_a_friend_is_answered(
    aiohttp_client: AiohttpClient, path: str
) -> None:
    client = await aiohttp_client(make_app())
    async with client.options(path, headers={"Origin": FRIEND} | ASKS) as response:
        assert response.status == 204
        assert "Authorization" in response.headers["Access-Control-Allow-Headers"]
        assert response.headers["Access-Control-Allow-Origin"] == FRIEND


@pytest.mark.parametrize("headers", [{"Origin": STRANGER} | ASKS, {"Origin": FRIEND}, {}])
async def test_other_options_requests_go_to_their_route(
    aiohttp_client: AiohttpClient, headers: dict[str, str]
) -> None:
    client = await aiohttp_client(make_app())
    async with client.options("/thing", headers=headers) as response:
        assert await response.text() == "options"
