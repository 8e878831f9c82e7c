"""An issuer that is up, slow, down, lying and back; a real one, on loopback."""

import asyncio
import base64
import json
import logging
import textwrap
from collections.abc import AsyncIterator, Callable

import jwt
import pytest
from aiohttp import ClientSession, web
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from yarl import URL

from {{cookiecutter.package_name}}.patterns import jwks as pattern
from {{cookiecutter.package_name}}.patterns.jwks import JWKS, Timing

Jwk = dict[str, object]


def jwk(algorithm: str, key: object, **more: object) -> Jwk:
    made: Jwk = json.loads(jwt.get_algorithm_by_name(algorithm).to_jwk(key))
    made.pop("key_ops", None)
    return {**made, **more}


RSA = jwk("RS256", rsa.generate_private_key(65537, 2048).public_key())
WEAK = jwk("RS256", rsa.generate_private_key(65537, 1024).public_key())  # noqa: S505
EC = jwk("ES256", ec.generate_private_key(ec.SECP256R1()).public_key())
EC2 = jwk("ES256", ec.generate_private_key(ec.SECP256R1()).public_key())
EC384 = jwk("ES384", ec.generate_private_key(ec.SECP384R1()).public_key())
ED = jwk("EdDSA", ed25519.Ed25519PrivateKey.generate().public_key())
ED448 = jwk("EdDSA", ed448.Ed448PrivateKey.generate().public_key())
EC_PRIVATE = jwk("ES256", ec.generate_private_key(ec.SECP256R1()))


class Issuer:
    """Answers what it is told to; `gate` holds answers back, `asked` counts questions."""

    def __init__(self) -> None:
        self.body = b""
        self.status = 200
        self.gate = asyncio.Event()
        self.gate.set()
        self.arrived = asyncio.Event()
        self.asked = 0
        self.time = 1000.0
        self.url = ""

    def publish(self, *keys: object) -> None:
        self.body = json.dumps({"keys": keys}).encode()

    async def answer(self, _: web.Request) -> web.Response:
        self.asked += 1
        self.arrived.set()
        await self.gate.wait()
        headers = {"Location": "/elsewhere"} if self.status == 302 else {}
        return web.Response(status=self.status, body=self.body, headers=headers)


async def elsewhere(_: web.Request) -> web.Response:
    return web.json_response({"keys": [{**EC2, "kid": "x"}]})


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    issuer, app = Issuer(), web.Application()
    app.router.add_get("/keys", issuer.answer)
    app.router.add_get("/elsewhere", elsewhere)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    issuer.url = f"http://127.0.0.1:{runner.addresses[0][1]}/keys"
    yield issuer
    issuer.gate.set()
    await runner.cleanup()


@pytest.fixture
async def session() -> AsyncIterator[ClientSession]:
    async with ClientSession() as session:
        yield session


Make = Callable[..., JWKS]


@pytest.fixture
def make(issuer: Issuer, session: ClientSession) -> Make:
    """A key source with a clock that stands still at `issuer.time`."""

    def make(changed: Callable[[], object] = lambda: None, timeout: float = 5.0) -> JWKS:
        timing = Timing(cooldown=10, timeout=timeout, now=lambda: issuer.time)
        return JWKS(issuer.url, lambda: session, timing=timing, changed=changed)

    return make


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  # the source has no event to wait for
            await asyncio.sleep(0.001)


async def found(keys: JWKS, kid: str | None, algorithm: str = "ES256") -> bool:
    try:
        key = await keys(kid, algorithm)
    except LookupError:
        return False
    return key.algorithm_name == algorithm and kid in (None, key.key_id)


async def test_the_wiring_in_the_docstring_works(issuer: Issuer, session: ClientSession) -> None:
    app, key = web.Application(), web.AppKey("session", ClientSession)
    app[key] = session
    issuer.publish({**EC, "kid": "one"})
    names: dict[str, object] = {"app": app, "SESSION": key, "cache": set(), "policy": None}
    names |= {"jwks_verifier": lambda keys, _: keys, "JWKS": JWKS}
    block = (pattern.__doc__ or "").split("Wiring::")[1].split("Needs:")[0]
    block = block.replace("https://issuer.example/jwks.json", issuer.url)
    exec(textwrap.dedent(block), names)  # noqa: S102
    keys = names["keys"]
    assert isinstance(keys, JWKS)
    runner = web.AppRunner(app)
    await runner.setup()
    await until(lambda: keys.ready)
    await runner.cleanup()


async def test_keys_are_fetched_once_and_found_by_kid_and_algorithm(
    issuer: Issuer, make: Make
) -> None:
    issuer.publish({**RSA, "kid": "r"}, {**EC, "kid": "e"}, {**ED, "kid": "d"})
    keys = make()
    assert await found(keys, "r", "RS256")
    assert await found(keys, "e", "ES256")
    assert await found(keys, "d", "EdDSA")
    assert not await found(keys, "r", "ES256")
    assert issuer.asked == keys.fetches == 1


async def test_an_unknown_kid_asks_the_issuer_again(issuer: Issuer, make: Make) -> None:
    issuer.publish({**EC, "kid": "old"})
    keys = make()
    await keys.refresh()
    issuer.publish({**EC, "kid": "old"}, {**EC2, "kid": "new"})
    issuer.time += 10
    assert await found(keys, "new")
    assert await found(keys, "old")


async def test_random_kids_ask_the_issuer_once_a_cooldown(issuer: Issuer, make: Make) -> None:
    issuer.publish({**EC, "kid": "one"})
    keys = make()
    for second in range(30):
        issuer.time = 1000 + second
        for number in range(5):
            assert not await found(keys, f"random {number}")
    assert issuer.asked == 3


async def test_one_fetch_is_in_flight_for_everybody(issuer: Issuer, make: Make) -> None:
    issuer.publish({**EC, "kid": "one"})
    issuer.gate.clear()
    keys = make()
    waiting = [asyncio.create_task(found(keys, "one")) for _ in range(20)]
    await until(issuer.arrived.is_set)
    issuer.gate.set()
    assert all(await asyncio.gather(*waiting))
    assert issuer.asked == 1


async def test_a_waiter_that_leaves_does_not_take_the_fetch_with_it(
    issuer: Issuer, make: Make
) -> None:
    issuer.publish({**EC, "kid": "one"})
    issuer.gate.clear()
    keys = make()
    leaving, staying = (asyncio.create_task(found(keys, "one")) for _ in range(2))
    await until(issuer.arrived.is_set)
    leaving.cancel()
    await asyncio.wait({leaving})
    issuer.gate.set()
    assert await staying
    assert (leaving.cancelled(), issuer.asked) == (True, 1)


async def test_a_known_key_does_not_wait_for_a_slow_issuer(issuer: Issuer, make: Make) -> None:
    issuer.publish({**EC, "kid": "one"})
    keys = make()
    await keys.refresh()
    issuer.time += 10
    issuer.gate.clear()
    issuer.arrived.clear()
    unknown = asyncio.create_task(found(keys, "two"))
    await until(issuer.arrived.is_set)
    assert await found(keys, "one")
    assert not unknown.done()
    issuer.gate.set()
    assert not await unknown


LIES = {
    "a 500": (500, b"{}"),
    "a 404 with keys": (404, json.dumps({"keys": [{**EC2, "kid": "x"}]}).encode()),
    "a redirect": (302, b""),
    "HTML": (200, b"<html>"),
    "nothing": (200, b""),
    "not UTF-8": (200, b"\xff\xfe\xff"),
    "a list": (200, b"[]"),
    "a number": (200, b"7"),
    "no keys": (200, b"{}"),
    "keys null": (200, b'{"keys": null}'),
    "keys empty": (200, b'{"keys": []}'),
    "keys an object": (200, b'{"keys": {"a": 1}}'),
    "keys of rubbish": (200, b'{"keys": [1, null, "a", [], {}]}'),
    "unusable keys": (200, json.dumps({"keys": [{**EC, "use": "enc"}]}).encode()),
    "nested a thousand deep": (200, b"[" * 10_000),
    "too much": (200, json.dumps({"keys": [{**EC2, "kid": "x"}], "x": "x" * 300_000}).encode()),
}


@pytest.mark.parametrize(("status", "body"), LIES.values(), ids=LIES)
async def test_a_wrong_answer_never_empties_the_cache(
    issuer: Issuer, make: Make, status: int, body: bytes
) -> None:
    issuer.publish({**EC, "kid": "one"})
    keys = make()
    await keys.refresh()
    issuer.time, issuer.status, issuer.body = 1010, status, body
    await keys.refresh()
    assert (issuer.asked, keys.failures) == (2, 1)
    assert await found(keys, "one")
    assert not await found(keys, "x")


async def test_keys_are_served_stale_while_the_issuer_is_down_and_fresh_when_it_is_back(
    issuer: Issuer, session: ClientSession
) -> None:
    issuer.publish({**EC, "kid": "one"})
    keys = JWKS(issuer.url, lambda: session, timing=Timing(now=lambda: issuer.time))
    await keys.refresh()
    keys._url = keys._url.with_port(1)  # nobody listens there
    issuer.time += 7200
    await keys.refresh()
    assert keys.failures == 1
    assert await found(keys, "one")
    keys._url = URL(issuer.url)
    issuer.publish({**EC2, "kid": "two"})
    issuer.time += 10
    assert await found(keys, "two")


async def test_a_fetch_ends_at_its_timeout(issuer: Issuer, make: Make) -> None:
    issuer.gate.clear()
    keys = make(timeout=0.02)
    await keys.refresh()
    assert (keys.failures, keys.ready) == (1, False)


async def test_without_any_keys_the_answer_is_not_the_tokens_fault(
    issuer: Issuer, make: Make
) -> None:
    issuer.status = 500
    keys = make()
    with pytest.raises(web.HTTPServiceUnavailable) as refused:
        await keys("one", "ES256")
    assert refused.value.headers["Retry-After"] == "10"


async def test_a_closed_session_is_a_failed_fetch(issuer: Issuer, make: Make) -> None:
    keys = make()
    await keys._session().close()
    await keys.refresh()
    assert keys.failures == 1


UNUSABLE: dict[str, Jwk] = {
    "for encryption": {**EC, "use": "enc"},
    "use of no text": {**EC, "use": ["sig"]},
    "for other operations": {**EC, "key_ops": ["sign", "deriveKey"]},
    "key_ops of no list": {**EC, "key_ops": 7},
    "for another algorithm": {**EC, "alg": "ES384"},
    "on another curve": EC384,
    "of another Edwards curve": ED448,
    "symmetric": {"kty": "oct", "k": base64.b64encode(b"k" * 32).decode()},
    "weak": WEAK,
    "private": EC_PRIVATE,
    "not on its curve": {**EC, "y": EC["x"]},
    "half": {k: v for k, v in EC.items() if k != "y"},
    "of an unknown type": {**EC, "kty": "AKP"},
    "of a type with the curve in it": {**EC, "kty": "EC P-256", "crv": ""},
    "with a number for a kid": {**EC, "kid": 1},
}


@pytest.mark.parametrize("key", UNUSABLE.values(), ids=UNUSABLE)
async def test_a_key_that_may_not_sign_tokens_is_ignored(
    issuer: Issuer, make: Make, key: Jwk
) -> None:
    issuer.publish({"kid": "bad", **key}, {**RSA, "kid": "good"})
    keys = make()
    assert await found(keys, "good", "RS256")
    for algorithm in ("RS256", "ES256", "ES384", "EdDSA", "HS256"):
        assert not await found(keys, "bad", algorithm)
    assert await found(keys, None, "RS256")
    assert not await found(keys, None, "ES256")


async def test_a_token_without_kid_needs_a_set_with_one_key_for_its_algorithm(
    issuer: Issuer, make: Make
) -> None:
    issuer.publish({**EC, "kid": "a"}, RSA)
    keys = make()
    assert await found(keys, None, "ES256")
    assert await found(keys, None, "RS256")
    issuer.publish({**EC, "kid": "a"}, {**EC2, "kid": "b"}, RSA, {**RSA, "e": "Aw"})
    issuer.time += 10
    await keys.refresh()
    assert not await found(keys, None, "ES256")
    assert not await found(keys, None, "RS256")


async def test_of_two_keys_with_one_name_the_first_is_meant(issuer: Issuer, make: Make) -> None:
    issuer.publish({**EC, "kid": "a"}, {**EC2, "kid": "a"}, {**RSA, "kid": "a"})
    keys = make()
    first = await keys("a", "ES256")
    expected = jwt.PyJWK(EC, "ES256").key
    assert first.key.public_numbers() == expected.public_numbers()
    assert await found(keys, "a", "RS256")


async def test_a_key_that_left_the_set_is_forgotten_and_told(issuer: Issuer, make: Make) -> None:
    told: list[int] = []
    issuer.publish({**EC, "kid": "old"})
    keys = make(changed=lambda: told.append(1))
    for published in ("old", "old", "new"):
        issuer.publish({**EC, "kid": published})
        await keys.refresh()
        issuer.time += 10
    assert len(told) == 2
    assert not await found(keys, "old")


async def test_the_set_is_fetched_in_the_background_until_the_end(
    issuer: Issuer, session: ClientSession
) -> None:
    issuer.status = 500
    keys = JWKS(issuer.url, lambda: session, timing=Timing(ttl=0.002, cooldown=0.001))
    app = web.Application()
    app.cleanup_ctx.append(keys.background)
    runner = web.AppRunner(app)
    await runner.setup()
    await until(lambda: keys.failures > 2)
    issuer.publish({**EC, "kid": "one"})
    issuer.status = 200
    await until(lambda: keys.ready)
    fetches = keys.fetches
    await until(lambda: keys.fetches > fetches + 2)
    await runner.cleanup()
    fetches = keys.fetches
    await asyncio.sleep(0.01)
    assert keys.fetches == fetches


async def test_an_application_ends_while_a_fetch_hangs(
    issuer: Issuer, session: ClientSession
) -> None:
    issuer.gate.clear()
    keys = JWKS(issuer.url, lambda: session)
    app = web.Application()
    app.cleanup_ctx.append(keys.background)
    runner = web.AppRunner(app)
    await runner.setup()
    await until(issuer.arrived.is_set)
    async with asyncio.timeout(2):
        await runner.cleanup()


async def test_a_failure_is_logged_without_the_address(
    issuer: Issuer, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    issuer.status = 500
    with caplog.at_level(logging.WARNING):
        await make().refresh()
    assert [record.getMessage() for record in caplog.records] == [
        "key set not refreshed: ValueError"
    ]


@pytest.mark.parametrize("url", ["http://issuer.example/", "file:///etc/keys", "http://10.0.0.1/"])
def test_an_address_in_the_clear_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="https"):
        JWKS(url, ClientSession)


@pytest.mark.parametrize("url", ["https://issuer.example/", "http://localhost:1/", "http://[::1]/"])
def test_https_and_loopback_are_accepted(url: str) -> None:
    assert not JWKS(url, ClientSession).ready
