"""Keys rotate under load, while the issuer is up, slow, stalled, down, lying and back.

Not a valid token is refused once keys are known, and the issuer is asked at most once a cooldown,
whatever strangers send. `pytest -s tests/test_key_rotation.py` prints the figures.
"""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import jwt
from aiohttp import ClientSession, web
from cryptography.hazmat.primitives.asymmetric import ec

from {{cookiecutter.package_name}}.patterns.jwks import JWKS, Timing
from {{cookiecutter.package_name}}.patterns.jwt_auth import CLAIMS, Claims, jwt_auth
from {{cookiecutter.package_name}}.patterns.jwt_verify import TokenPolicy, jwks_verifier
from {{cookiecutter.package_name}}.patterns.token_cache import TokenCache

COOLDOWN, TIMEOUT, PHASE, CLIENTS = 0.1, 0.08, 0.3, 6
POLICY = TokenPolicy(issuer="https://issuer.example", audience="my-service")
KEYS = {kid: ec.generate_private_key(ec.SECP256R1()) for kid in ("old", "new", "newest")}
LIES = [(200, b'{"keys": []}'), (200, b"<html>"), (200, b'{"keys": [{}, 7]}'), (500, b"")]


def tokens(kid: str, count: int, signer: str = "") -> list[str]:
    now = int(time.time())
    claims = {"iss": POLICY.issuer, "aud": POLICY.audience, "iat": now, "exp": now + 600}
    key, header = KEYS[signer or kid], {"kid": kid, "typ": "at+jwt"}
    return [jwt.encode(claims | {"sub": f"{i}"}, key, "ES256", header) for i in range(count)]


class Issuer:
    """A key server on a port of its own, which does as it is told."""

    def __init__(self) -> None:
        self.mode = "up"
        self.published: tuple[str, ...] = ()
        self.lies = 0
        self.port = 0

    async def answer(self, _: web.Request) -> web.Response:
        if self.mode == "lying":
            status, lie = LIES[self.lies % len(LIES)]
            self.lies += 1
            return web.Response(status=status, body=lie)
        await asyncio.sleep({"slow": TIMEOUT / 2, "stalled": TIMEOUT * 2}.get(self.mode, 0))
        keys = []
        for kid in self.published:
            algorithm = jwt.get_algorithm_by_name("ES256")
            keys.append(json.loads(algorithm.to_jwk(KEYS[kid].public_key())) | {"kid": kid})
        return web.json_response({"keys": keys})

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        app = web.Application()
        app.router.add_get("/keys", self.answer)
        async with running(app, self.port) as self.port:
            yield


@asynccontextmanager
async def running(app: web.Application, port: int = 0) -> AsyncIterator[int]:
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port, reuse_address=True).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


class Load:
    """Clients with tokens that are `valid` by now, and with as many of keys nobody has."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.valid: list[str] = []
        self.forged = [t for i in range(60) for t in tokens(f"random {i}", 1, "old")]
        self.phase = ""
        self.answers: dict[str, Counter[tuple[str, int]]] = {}
        self.slowest: dict[str, float] = {}

    async def client(self) -> None:
        async with ClientSession() as session:
            while True:
                phase, kind = self.phase, random.choice(["valid", "forged"])  # noqa: S311
                token = random.choice(self.valid if kind == "valid" else self.forged)  # noqa: S311
                begun = time.perf_counter()
                headers = {"Authorization": f"Bearer {token}"}
                async with session.get(self.url, headers=headers) as response:
                    self.answers.setdefault(phase, Counter())[kind, response.status] += 1
                if kind == "valid":
                    took = time.perf_counter() - begun
                    self.slowest[phase] = max(took, self.slowest.get(phase, 0))

    async def run(self, phase: str, seconds: float = PHASE) -> None:
        self.phase = phase
        await asyncio.sleep(seconds)


async def until(condition: Callable[[], bool]) -> float:
    begun = time.perf_counter()
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  # a deadline, and nothing to wait for
            await asyncio.sleep(0.002)
    return time.perf_counter() - begun


async def whoami(request: web.Request) -> web.Response:
    return web.Response(text=request[CLAIMS].sub)


@asynccontextmanager
async def service(issuer: Issuer) -> AsyncIterator[tuple[JWKS, Load]]:
    """The patterns as app.py wires them, with seconds made short; with a load on it."""
    async with ClientSession() as session:
        # So short a life in the cache that nearly each request needs its key.
        cache: TokenCache[Claims] = TokenCache(leeway=10, ttl=0.005)
        timing = Timing(ttl=4 * COOLDOWN, cooldown=COOLDOWN, timeout=TIMEOUT)
        url = f"http://127.0.0.1:{issuer.port}/keys"
        keys = JWKS(url, lambda: session, timing=timing, changed=cache.clear)
        verify = jwks_verifier(keys, POLICY)
        app = web.Application(middlewares=[jwt_auth(verify=verify, realm="r", cache=cache)])
        app.router.add_get("/", whoami)
        app.cleanup_ctx.append(keys.background)
        async with running(app) as port:
            load = Load(f"http://127.0.0.1:{port}/")
            load.valid = tokens("old", 60)
            clients = [asyncio.create_task(load.client()) for _ in range(CLIENTS)]
            try:
                yield keys, load
            finally:
                for client in clients:
                    client.cancel()
                await asyncio.wait(clients)
            assert all(client.cancelled() for client in clients)


async def test_no_valid_token_is_refused_and_the_issuer_is_asked_once_a_cooldown() -> None:
    issuer = Issuer()
    async with issuer.listening():
        pass  # a port that is known, and free
    begun = time.monotonic()
    async with service(issuer) as (keys, load):
        await load.run("not yet up")
        async with issuer.listening():
            issuer.published = ("old",)
            load.phase = "first fetch"
            await until(lambda: keys.ready)
            await load.run("up")
            issuer.published = ("old", "new")  # issuers publish a key before they sign with it
            known = [await until(lambda: len(keys._keys) == 2)]
            load.valid += tokens("new", 60)
            for issuer.mode in ("up", "slow", "stalled", "lying"):
                await load.run(f"rotated, {issuer.mode}")
            await until(lambda: issuer.lies > len(LIES))
        await load.run("rotated, down")
        issuer.mode, issuer.published = "up", ("new", "newest")
        load.valid = tokens("new", 60)
        async with issuer.listening():
            load.phase = "rotated, back"
            known.append(await until(lambda: "newest" in [key.key_id for _, key in keys._keys]))
            load.valid += tokens("newest", 60)
            await load.run("rotated twice")
            load.phase, load.valid = "retired", tokens("old", 60)
            await load.run("retired", PHASE / 3)
        elapsed = time.monotonic() - begun
    figures = [
        f"{keys.fetches} fetches, {keys.failures} failed, {elapsed:.2f} s, cooldown {COOLDOWN} s",
        f"a new key was known {max(known):.3f} s after it was published",
    ]
    for phase, answers in load.answers.items():
        slowest = f"slowest valid {load.slowest[phase] * 1000:.1f} ms"
        figures.append(f"{phase:17} {dict(sorted(answers.items()))}, {slowest}")
    print("", *figures, sep="\n")  # noqa: T201  # for those who run it with -s

    assert (keys.fetches - 1) * COOLDOWN <= elapsed
    assert keys.failures >= 6
    phases = load.answers.copy()
    assert set(phases.pop("not yet up")) == {("valid", 503), ("forged", 503)}  # no token's fault
    assert set(phases.pop("retired")) == {("valid", 401), ("forged", 401)}
    phases.pop("first fetch")
    assert len(phases) == 8
    for phase, answers in phases.items():
        assert (phase, set(answers)) == (phase, {("valid", 200), ("forged", 401)})
