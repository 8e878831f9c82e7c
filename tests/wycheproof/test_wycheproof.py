"""Wycheproof's JSON Web Signature vectors, brought to the JWT patterns.

The vectors sign `foo` and the like, no claims, so that a verifier refuses them all whatever their
signatures are. To see signatures decide, PyJWT's hook for reading what was signed is given claims
that are good; the grammar, the algorithms, the choice of the key and the check are the patterns'.

What comes out otherwise than the vectors say is in `DEVIATIONS`, each with its reason, and the
table is exact: a deviation that is not in it, or is no more, fails.
"""

import asyncio
import importlib.util
import json
import os
import subprocess
import sys
from base64 import urlsafe_b64decode
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import jwt
import pytest
from aiohttp import ClientSession, web
from conftest import ROOT, Bake
from cryptography.hazmat.primitives.asymmetric import ed25519

Jwk = dict[str, object]
PATTERNS = ROOT / "{{cookiecutter.project_slug}}/src/{{cookiecutter.package_name}}/patterns"
DATA = json.loads(Path(__file__).with_name("json_web_signature.json").read_text())
NOW = 1_000_000.0
CLAIMS = {"iss": "https://issuer.example", "aud": "it", "sub": "ann", "iat": NOW, "exp": NOW + 60}

# By tcId: what happens instead of what the vectors say, and why that is right.
DEVIATIONS = {
    # RS384, RS512, PS256, PS384, PS512 and ES512 are not among the algorithms: RS256, ES256 and
    # EdDSA are what issuers use, and each further one is one more that has to be right.
    **dict.fromkeys([*range(265, 268), *range(269, 272)], "refused: algorithm"),
    **dict.fromkeys([*range(273, 276), 287, 288], "refused: algorithm"),
    **dict.fromkeys([*range(321, 324), *range(326, 329)], "refused: algorithm"),
    **dict.fromkeys([346, 347, 350, 351], "refused: algorithm"),
    # An empty payload: a JWT's is a JSON object (RFC 7519 section 7.2).
    **dict.fromkeys([259, 264, 268, 272, 320, 325], "refused: malformed"),
    # A question mark within: it is not of the alphabet (RFC 7515 section 2), and not signed, for
    # the MAC is over the text without it.
    **dict.fromkeys([372, 373], "refused: malformed"),
    # Letter by letter test 357, which is valid: the padding that their comments name was lost.
    **dict.fromkeys([367, 370], "accepted"),
    # With PyJWT 2.13 also 375, whose signer left unused bits of the encoding set: 2.14 looks.
}


@dataclass(frozen=True)
class Vector:
    group: int
    id: int
    jws: str
    valid: bool


Verify = Callable[[str], Awaitable[Mapping[str, object]]]
Answers = AsyncIterator[tuple[Vector, int, str]]

KEYS: list[Jwk] = [group["key"] for group in DATA["groups"]]
VECTORS = [
    Vector(number, test["tcId"], test["jws"], test["result"] == "valid")
    for number, group in enumerate(DATA["groups"])
    for test in group["tests"]
]


def pattern(name: str) -> ModuleType:
    """One file of the shelf, by itself."""
    spec = importlib.util.spec_from_file_location(f"shelf_{name}", PATTERNS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


jwks, jwt_auth, jwt_verify = pattern("jwks"), pattern("jwt_auth"), pattern("jwt_verify")
POLICY = jwt_verify.TokenPolicy(issuer=CLAIMS["iss"], audience=CLAIMS["aud"], now=lambda: NOW)


def decoded(text: object) -> bytes:
    return urlsafe_b64decode(f"{text}{'=' * (-len(str(text)) % 4)}")


def issuer(keys: Iterable[Jwk]) -> web.Application:
    """A key set in which there is always one more key, so that it is never empty."""
    other = ed25519.Ed25519PrivateKey.generate().public_key()
    more = jwt.get_algorithm_by_name("EdDSA").to_jwk(other, as_dict=True) | {"kid": "another"}

    async def answer(_: web.Request) -> web.Response:
        return web.json_response({"keys": [*keys, more]})

    app = web.Application()
    app.router.add_get("/keys", answer)
    return app


def verifier(key: Jwk, keys: object) -> Verify:
    """Takes what is signed with this key, as wired in the docstrings."""
    verify: Verify
    if key["kty"] == "oct":
        verify = jwt_verify.hs256_verifier(decoded(key["k"]), POLICY)
    else:
        verify = jwt_verify.jwks_verifier(keys, POLICY)
    return verify


def guarded(verify: Verify) -> web.Application:
    async def whoami(request: web.Request) -> web.Response:
        return web.Response(text=request[jwt_auth.CLAIMS].sub)

    app = web.Application(middlewares=[jwt_auth.jwt_auth(verify=verify, realm="test")])
    app.router.add_get("/", whoami)
    return app


@asynccontextmanager
async def listening(apps: dict[str, web.Application]) -> AsyncIterator[str]:
    app = web.Application()
    for prefix, each in apps.items():
        app.add_subapp(prefix, each)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.fixture
async def verifiers() -> AsyncIterator[list[Verify]]:
    """One for each group, with its secret or with an issuer that publishes its key."""
    issuers = {f"/{n}": issuer([key]) for n, key in enumerate(KEYS)}
    async with ClientSession() as session, listening(issuers) as url:
        sources = [jwks.JWKS(f"{url}/{n}/keys", lambda: session) for n in range(len(KEYS))]
        yield [verifier(key, source) for key, source in zip(KEYS, sources, strict=True)]


@pytest.fixture
async def answers(verifiers: list[Verify]) -> AsyncIterator[Answers]:
    """Each vector brought to an application of its group's key: status and challenge."""
    apps = {f"/{n}": guarded(verify) for n, verify in enumerate(verifiers)}
    async with ClientSession() as session, listening(apps) as url:
        yield asked(session, {n: f"{url}/{n}/" for n in range(len(KEYS))})


async def asked(session: ClientSession, urls: dict[int, str]) -> Answers:
    for vector in VECTORS:
        bearer = {"Authorization": f"Bearer {vector.jws}"}
        async with session.get(urls[vector.group], headers=bearer) as response:
            yield vector, response.status, response.headers.get("WWW-Authenticate", "")


def verifies(vector: Vector) -> bool:
    """Whether the signature is right by the key's own algorithm and nothing else is asked."""
    key = {k: v for k, v in KEYS[vector.group].items() if k not in {"use", "key_ops"}}
    signed, _, signature = vector.jws.rpartition(".")
    name = json.loads(decoded(signed.partition(".")[0]))["alg"]
    algorithm = jwt.get_algorithm_by_name(name)
    return algorithm.verify(signed.encode(), algorithm.from_jwk(key), decoded(signature))


def opened(vector: Vector) -> bytes:
    """What the holder of an RSA key signed: the signature, taken to the public exponent."""
    key, signature = KEYS[vector.group], decoded(vector.jws.rpartition(".")[2])
    e, n = (int.from_bytes(decoded(key[name])) for name in ("e", "n"))
    return pow(int.from_bytes(signature), e, n).to_bytes(len(signature))


def test_the_vectors_are_all_there_and_as_they_were_published() -> None:
    assert [vector.id for vector in VECTORS] == list(range(1, 402))
    assert [v.id for v in VECTORS if v.valid and not verifies(v)] == [372, 373]
    assert not any({"d", "p", "q"} & key.keys() for key in KEYS)


def test_the_vectors_about_padding_hold_a_padding() -> None:
    """A signature with one wrong letter would be refused, too, and say nothing."""
    blocks = [opened(vector) for vector in VECTORS if 46 <= vector.id <= 258]
    assert all(block.startswith(b"\0\1" + b"\xff" * 32) for block in blocks)
    assert len(set(blocks)) == 213


@pytest.fixture
def whatever_is_signed_is_good(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwt_verify.DECODER, "_decode_payload", lambda _: dict(CLAIMS))


@pytest.mark.usefixtures("whatever_is_signed_is_good")
async def test_signatures_decide_as_the_vectors_say_but_for_what_is_explained(
    verifiers: list[Verify],
) -> None:
    deviating = {}
    for vector in VECTORS:
        try:
            await verifiers[vector.group](vector.jws)
            outcome = "accepted"
        except ValueError as error:
            outcome = f"refused: {error}"
        if (outcome == "accepted") != vector.valid:
            deviating[vector.id] = outcome
    assert deviating == DEVIATIONS


@pytest.mark.usefixtures("whatever_is_signed_is_good")
async def test_signatures_decide_over_a_socket_as_they_do_without(answers: Answers) -> None:
    word = {200: "accepted", 401: "refused"}
    outcomes = {vector: word[status] async for vector, status, _ in answers}
    deviating = {v.id: o for v, o in outcomes.items() if v.valid != (o == "accepted")}
    assert deviating == {id_: outcome.split(":")[0] for id_, outcome in DEVIATIONS.items()}


async def test_with_the_claims_that_they_have_none_gets_in(answers: Answers) -> None:
    async for vector, status, challenge in answers:
        assert (vector.id, status) == (vector.id, 401)
        assert challenge == 'Bearer realm="test", error="invalid_token"'


@contextmanager
def process(folder: Path, keys_url: str) -> Iterator[Path]:
    """The generated service, taking tokens of this issuer; yields its log."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("APP_")}
    given = {"APP_ENV": "dev", "APP_PORT": "0", "APP_LOG_FORMAT": "json", "PYTHONPATH": "src"}
    (package,) = (path.parent.name for path in (folder / "src").glob("*/app.py"))
    log = folder / "service.log"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [sys.executable, "-m", package],
            cwd=folder,
            env=clean | given | {"APP_JWT_JWKS_URL": keys_url},
            stdout=output,
        ) as running,
    ):
        try:
            yield log
        finally:
            running.kill()


async def test_the_generated_service_answers_each_with_a_challenge(bake: Bake) -> None:
    """The keys of all groups are one set here, in which some names occur several times."""
    published = [key for key in KEYS if key["kty"] != "oct"]
    async with ClientSession() as session, listening({"/a": issuer(published)}) as url:
        with process(bake(fresh=True).path, f"{url}/a/keys") as log:
            async with asyncio.timeout(30):
                while b"http://127.0.0.1:" not in log.read_bytes():
                    await asyncio.sleep(0.02)
                port = log.read_text().split("http://127.0.0.1:")[1].split('"')[0].split(",")[0]
                while (await session.get(f"http://127.0.0.1:{port}/readyz")).status != 200:
                    await asyncio.sleep(0.02)
            one = f"http://127.0.0.1:{port}/api/v1/rooms/lobby/messages"
            async for vector, status, challenge in asked(session, dict.fromkeys(range(99), one)):
                assert (vector.id, status) == (vector.id, 401)
                assert challenge.endswith('error="invalid_token"')
