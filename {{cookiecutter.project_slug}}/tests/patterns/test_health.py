from textwrap import dedent

import pytest
from aiohttp import web
from pytest_aiohttp.plugin import AiohttpClient

from {{cookiecutter.package_name}}.patterns import health as pattern
from {{cookiecutter.package_name}}.patterns.health import livez, readyz


def fails() -> bool:
    raise ConnectionError


async def test_alive_says_ok(aiohttp_client: AiohttpClient) -> None:
    app = web.Application()
    app.router.add_get("/livez", livez)
    client = await aiohttp_client(app)
    async with client.get("/livez") as response:
        assert (response.status, await response.json()) == (200, {"status": "ok"})


async def test_ready_while_every_check_holds(aiohttp_client: AiohttpClient) -> None:
    app = web.Application()
    wiring = (pattern.__doc__ or "").split("Wiring::")[1].split("Needs:")[0]
    exec(dedent(wiring), {"app": app, "livez": livez, "readyz": readyz})  # noqa: S102
    client = await aiohttp_client(app)
    async with client.get("/readyz") as response:
        assert (response.status, await response.json()) == (200, {"status": "ready"})


@pytest.mark.parametrize("check", [lambda: False, fails])
async def test_unready_while_one_check_fails_or_cannot_tell(
    aiohttp_client: AiohttpClient, check: object
) -> None:
    app = web.Application()
    app.router.add_get("/readyz", readyz({"fine": lambda: True, "broker": check}))  # type: ignore[dict-item]  # parametrised
    client = await aiohttp_client(app)
    async with client.get("/readyz") as response:
        assert response.status == 503
        assert await response.text() == "not ready: broker"
        assert response.headers["Retry-After"] == "1"
