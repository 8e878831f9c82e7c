import asyncio
import hashlib
import threading
from base64 import b64encode
from collections.abc import Iterator
from textwrap import dedent

import pytest
from aiohttp import web
from pytest_aiohttp.plugin import AiohttpClient

from {{cookiecutter.package_name}}.patterns import basic_auth as pattern
from {{cookiecutter.package_name}}.patterns.basic_auth import USER, basic_auth, hash_password


@pytest.fixture(autouse=True, scope="module")
def _cheap() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pattern, "COST", 2)  # the cost is part of each hash, so nothing else changes
        yield


async def whoami(request: web.Request) -> web.Response:
    return web.Response(text=request[USER])


def make_app(**users: str) -> web.Application:
    hashes = {name: hash_password(password) for name, password in users.items()}
    app = web.Application(middlewares=[basic_auth(hashes, realm='the "tools"')])
    app.router.add_get("/", whoami)
    return app


def basic(text: str, encoding: str = "utf-8") -> dict[str, str]:
    return {"Authorization": "Basic " + b64encode(text.encode(encoding)).decode()}


@pytest.mark.parametrize(
    ("name", "password"),
    [("ada", "long: with colons :"), ("jürgen", "pässwörd €"), ("empty", "")],
)
async def test_who_knows_the_password_gets_in_by_name(
    aiohttp_client: AiohttpClient, name: str, password: str
) -> None:
    client = await aiohttp_client(make_app(**{name: password}))
    for _ in range(2):
        async with client.get("/", headers=basic(f"{name}:{password}")) as response:
            assert (response.status, await response.text()) == (200, name)


async def test_both_spellings_of_an_accent_are_one_password(
    aiohttp_client: AiohttpClient,
) -> None:
    client = await aiohttp_client(make_app(ada="caf\u00e9"))
    async with client.get("/", headers=basic("ada:cafe\u0301")) as response:
        assert response.status == 200


@pytest.mark.parametrize("scheme", ["basic", "BASIC", "Basic "])
async def test_the_scheme_is_read_in_any_case(aiohttp_client: AiohttpClient, scheme: str) -> None:
    client = await aiohttp_client(make_app(ada="secret"))
    headers = {"Authorization": f"{scheme} {b64encode(b'ada:secret').decode()}"}
    async with client.get("/", headers=headers) as response:
        assert response.status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        basic("ada:wrong"),
        basic("ada:"),
        basic("eve:secret"),
        basic("eve:"),
        basic("Ada:secret"),
        basic("ada"),
        basic("ada:sécret", "latin-1"),
        basic("ada:secret\n"),
        basic("ada:secret\x7f"),
        {"Authorization": "Basic YWRh*OnNlY3JldA=="},
        {"Authorization": "Basic"},
        {"Authorization": "Basic ada:secret"},
        {"Authorization": "Basic \u00e9\u00e9"},
        {"Authorization": "Bearer YWRhOnNlY3JldA=="},
        [*basic("ada:secret").items(), *basic("ada:secret").items()],
    ],
)
async def test_everything_else_is_a_401_with_the_same_challenge(
    aiohttp_client: AiohttpClient, headers: dict[str, str]
) -> None:
    client = await aiohttp_client(make_app(ada="secret"))
    async with client.get("/", headers=headers) as response:
        assert response.status == 401
        challenge = response.headers["WWW-Authenticate"]
        assert challenge == r'Basic realm="the \"tools\"", charset="UTF-8"'


@pytest.mark.parametrize("password", ["x" * 2000, "new\nline", "delete\x7f"])
async def test_a_password_that_is_no_text_or_too_long_is_never_checked(
    aiohttp_client: AiohttpClient, password: str
) -> None:
    client = await aiohttp_client(make_app(ada=password))
    async with client.get("/", headers=basic(f"ada:{password}")) as response:
        assert response.status == 401


async def test_the_first_check_is_off_the_loop_and_the_next_costs_no_hash(
    aiohttp_client: AiohttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await aiohttp_client(make_app(ada="secret"))
    threads: list[int] = []
    scrypt = pattern._scrypt

    def watched(password: str, salt: bytes, cost: int) -> bytes:
        threads.append(threading.get_ident())
        return scrypt(password, salt, cost)

    monkeypatch.setattr(pattern, "_scrypt", watched)
    for _ in range(3):
        async with client.get("/", headers=basic("ada:secret")) as response:
            assert response.status == 200
    assert len(threads) == 1
    assert threads != [threading.get_ident()]


@pytest.mark.parametrize("name", ["ada", "eve"])
async def test_a_wrong_password_and_an_unknown_name_both_cost_one_hash(
    aiohttp_client: AiohttpClient, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    client = await aiohttp_client(make_app(ada="secret"))
    costs: list[int] = []
    scrypt = pattern._scrypt

    def watched(password: str, salt: bytes, cost: int) -> bytes:
        costs.append(cost)
        return scrypt(password, salt, cost)

    monkeypatch.setattr(pattern, "_scrypt", watched)
    for _ in range(6):
        async with client.get("/", headers=basic(f"{name}:wrong")) as response:
            assert response.status == 401
    assert costs == [2] * 6


async def test_a_flood_of_guesses_is_refused_beyond_four_at_once(
    aiohttp_client: AiohttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await aiohttp_client(make_app(ada="secret"))
    gate, running = threading.Event(), threading.Semaphore(0)

    def slow(password: str, salt: bytes, cost: int) -> bytes:
        running.release()
        gate.wait(5)
        return b""

    async def status(number: int) -> int:
        async with client.get("/", headers=basic(f"ada:{number}")) as response:
            return response.status

    monkeypatch.setattr(pattern, "_scrypt", slow)
    guesses = [asyncio.create_task(status(number)) for number in range(4)]
    for _ in range(4):
        assert await asyncio.to_thread(running.acquire, timeout=5)
    async with client.get("/", headers=basic("ada:5")) as response:
        assert (response.status, response.headers["Retry-After"]) == (503, "1")
    gate.set()
    assert await asyncio.gather(*guesses) == [401] * 4


async def test_only_so_many_right_passwords_are_remembered(
    aiohttp_client: AiohttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pattern, "MAX_REMEMBERED", 1)
    client = await aiohttp_client(make_app(ada="secret", bob="other"))
    checks: list[int] = []
    scrypt = pattern._scrypt

    def watched(password: str, salt: bytes, cost: int) -> bytes:
        checks.append(cost)
        return scrypt(password, salt, cost)

    monkeypatch.setattr(pattern, "_scrypt", watched)
    for _ in range(2):
        for credentials in ("ada:secret", "bob:other"):
            async with client.get("/", headers=basic(credentials)) as response:
                assert response.status == 200
    assert len(checks) == 4


@pytest.mark.parametrize(
    "secret", ["secret", "", "a$b$c$d", "scrypt$2$AAAA$AAAA", "scrypt$two$AAAA$AAAA"]
)
def test_what_is_no_hash_is_refused_at_start(secret: str) -> None:
    with pytest.raises(ValueError, match="hash_password"):
        basic_auth({"ada": secret}, realm="tools")


def test_a_hash_is_salted_and_names_its_cost() -> None:
    first, second = hash_password("secret"), hash_password("secret")
    assert first != second
    assert first.startswith("scrypt$2$")
    assert "secret" not in first


def test_the_real_cost_is_the_one_that_is_recommended() -> None:
    digest = hashlib.scrypt(b"secret", salt=b"salt" * 4, n=2**14, r=8, p=1, maxmem=2**26, dklen=32)
    assert pattern._scrypt("secret", b"salt" * 4, 2**14) == digest


async def test_the_wiring_of_the_docstring_works(aiohttp_client: AiohttpClient) -> None:
    app = web.Application()
    names = {"app": app, "web": web, **vars(pattern)}
    exec(dedent((pattern.__doc__ or "").split("Wiring::")[1].split("Needs:")[0]), names)  # noqa: S102
    app.router.add_get("/", names["whoami"])
    client = await aiohttp_client(app)
    async with client.get("/", headers=basic("ada:s3cret, long")) as response:
        assert await response.text() == "ada"
