from textwrap import dedent

import pytest
from aiohttp import web
from pytest_aiohttp.plugin import AiohttpClient

from {{cookiecutter.package_name}}.patterns import security_headers as pattern
from {{cookiecutter.package_name}}.patterns.security_headers import (
    API_HEADERS,
    security_headers,
)


async def page(request: web.Request) -> web.Response:
    return web.Response(headers={"Content-Security-Policy": "default-src 'self'"})


async def broken(request: web.Request) -> web.Response:
    raise RuntimeError


def make_app() -> web.Application:
    app = web.Application()
    app.router.add_get("/page", page)
    app.router.add_get("/broken", broken)
    wiring = (pattern.__doc__ or "").split("Wiring::")[1].split("Needs:")[0]
    exec(dedent(wiring), {"app": app, "security_headers": security_headers})  # noqa: S102
    return app


@pytest.mark.parametrize("path", ["/broken", "/nowhere"])
async def test_errors_carry_them_all(aiohttp_client: AiohttpClient, path: str) -> None:
    client = await aiohttp_client(make_app())
    async with client.get(path) as response:
        assert {name: response.headers[name] for name in API_HEADERS} == dict(API_HEADERS)


async def test_a_value_chosen_by_the_handler_stands(aiohttp_client: AiohttpClient) -> None:
    client = await aiohttp_client(make_app())
    async with client.get("/page") as response:
        assert response.headers.getall("Content-Security-Policy") == ["default-src 'self'"]
        assert response.headers["X-Content-Type-Options"] == "nosniff"


async def test_no_answer_names_the_server_software(aiohttp_client: AiohttpClient) -> None:
    client = await aiohttp_client(make_app())
    async with client.get("/page") as response:
        assert "Server" not in response.headers
