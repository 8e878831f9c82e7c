"""What must not get in, over a real socket: each case is one step away from a token that does."""

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable

import aiohttp
import jwt
import pytest
from aiohttp import web
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils

from {{cookiecutter.package_name}}.patterns.jwks import JWKS
from {{cookiecutter.package_name}}.patterns.jwt_auth import (
    CLAIMS,
    jwt_auth,
    public,
)
from {{cookiecutter.package_name}}.patterns.jwt_verify import (
    TokenPolicy,
    hs256_verifier,
    jwks_verifier,
)

Sign = Callable[[bytes], bytes]

ISSUER, AUDIENCE = "https://issuer.example", "my-service"
NOW = int(time.time())  # of the tokens and of the clock, however long the other tests take
POLICY = TokenPolicy(issuer=ISSUER, audience=AUDIENCE, leeway=10, now=lambda: NOW)
SECRET = hashlib.sha512(b"the test's own secret").digest()  # long enough for HS512, too
RSA = rsa.generate_private_key(65537, 2048)
OTHER_RSA = rsa.generate_private_key(65537, 2048)
WEAK_RSA = rsa.generate_private_key(65537, 1024)  # noqa: S505  # weak on purpose
EC = ec.generate_private_key(ec.SECP256R1())
EC384 = ec.generate_private_key(ec.SECP384R1())
ED = ed25519.Ed25519PrivateKey.generate()
PEM, DER = serialization.Encoding.PEM, serialization.Encoding.DER
CLAIMS_OK: dict[str, object] = {
    "iss": ISSUER,
    "aud": AUDIENCE,
    "sub": "ann",
    "scope": "a b",
    "iat": NOW - 5,
    "exp": NOW + 600,
}
RS = {"alg": "RS256", "kid": "rsa"}


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def hs(secret: bytes, name: str = "sha256") -> Sign:
    return lambda data: hmac.digest(secret, data, name)


def rs(key: rsa.RSAPrivateKey) -> Sign:
    return lambda data: key.sign(data, padding.PKCS1v15(), hashes.SHA256())


def es_der(data: bytes) -> bytes:
    return EC.sign(data, ec.ECDSA(hashes.SHA256()))


def es(data: bytes) -> bytes:
    r, s = utils.decode_dss_signature(es_der(data))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def compact(header: object, payload: object, sign: Sign) -> str:
    raw = [
        part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, payload)
    ]
    body = f"{b64(raw[0])}.{b64(raw[1])}"
    return f"{body}.{b64(sign(body.encode()))}"


def hs_token(header: dict[str, object] | None = None, **claims: object) -> str:
    """A good HS256 token but for what is given; a claim given as `...` is left out."""
    payload = {k: v for k, v in {**CLAIMS_OK, **claims}.items() if v is not ...}
    return compact({"alg": "HS256", "typ": "JWT", **(header or {})}, payload, hs(SECRET))


def jwk(key: object, **more: object) -> dict[str, object]:
    public_key = key.public_key()  # type: ignore[attr-defined]  # any private key has one
    algorithm = {"RSA": "RS256", "EC": "ES256", "Ed2": "EdDSA"}[
        next(name for name in ("RSA", "EC", "Ed2") if type(public_key).__name__.startswith(name))
    ]
    made = jwt.get_algorithm_by_name(algorithm).to_jwk(public_key, as_dict=True)
    return {**made, **more}


def pem(key: rsa.RSAPrivateKey, encoding: serialization.Encoding = PEM) -> bytes:
    return key.public_key().public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)


# `OTHER_RSA` signs for some other use under four names, none of which may serve here.
KEY_SET: dict[str, object] = {
    "keys": [
        jwk(RSA, kid="rsa", use="sig"),
        jwk(EC, kid="ec"),
        jwk(ED, kid="ed"),
        jwk(OTHER_RSA, kid="encrypts", use="enc"),
        jwk(OTHER_RSA, kid="wraps", key_ops=["wrapKey"]),
        jwk(OTHER_RSA, kid="other-alg", alg="RS512"),
        jwk(OTHER_RSA, kid=7),
        jwk(OTHER_RSA, kid="rsa"),
        {"kty": "oct", "kid": "oct", "k": b64(SECRET)},
        jwk(WEAK_RSA, kid="weak"),
        jwk(OTHER_RSA, kid="leaked", d="AQAB"),
    ]
}
GOOD = hs_token()
HEAD, BODY, SIGNATURE = GOOD.split(".")
RSA_GOOD = compact(RS, CLAIMS_OK, rs(RSA))

GOOD_ONES = {
    "HS256": ("hs", GOOD),
    "typ at+jwt": ("hs", hs_token({"typ": "at+jwt"})),
    "typ application/at+jwt": ("hs", hs_token({"typ": "application/at+JWT"})),
    "several audiences": ("hs", hs_token(aud=["else", AUDIENCE])),
    "no scope": ("hs", hs_token(scope=...)),
    "expired within the leeway": ("hs", hs_token(exp=NOW - 1)),
    "fractional times": ("hs", hs_token(exp=NOW + 60.5, iat=NOW - 0.5, nbf=NOW - 0.25)),
    "RS256": ("jwks", RSA_GOOD),
    "ES256": ("jwks", compact({"alg": "ES256", "kid": "ec"}, CLAIMS_OK, es)),
    "ES256, the only key without asking": ("jwks", compact({"alg": "ES256"}, CLAIMS_OK, es)),
    "EdDSA": ("jwks", compact({"alg": "EdDSA", "kid": "ed"}, CLAIMS_OK, ED.sign)),
}

ALGORITHM = {
    "none": compact({"alg": "none"}, CLAIMS_OK, lambda _: b"").rstrip(".") + ".",
    "none with a signature": hs_token({"alg": "none"}),
    "None in other letters": hs_token({"alg": "nOnE"}),
    "no alg": compact({"typ": "JWT"}, CLAIMS_OK, hs(SECRET)),
    "alg null": hs_token({"alg": None}),
    "alg a list": hs_token({"alg": ["HS256"]}),
    "alg an object": hs_token({"alg": {"HS256": 1}}),
    "alg a number": hs_token({"alg": 256}),
    "alg in small letters": hs_token({"alg": "hs256"}),
    "HS384 with the same secret": compact({"alg": "HS384"}, CLAIMS_OK, hs(SECRET, "sha384")),
    "HS512 with the same secret": compact({"alg": "HS512"}, CLAIMS_OK, hs(SECRET, "sha512")),
    "RS256 where HS256 is due": RSA_GOOD,
    "unknown": hs_token({"alg": "XX999"}),
}
SIGNED = {
    "another secret": compact({"alg": "HS256"}, CLAIMS_OK, hs(b"x" * 32)),
    "an empty secret": compact({"alg": "HS256"}, CLAIMS_OK, hs(b"")),
    "no signature": f"{HEAD}.{BODY}.",
    "a cut signature": GOOD[:-4],
    "a longer signature": GOOD + "AAAA",
    "zeros": f"{HEAD}.{BODY}.{b64(bytes(32))}",
    "other claims": f"{HEAD}.{b64(json.dumps({**CLAIMS_OK, 'sub': 'eve'}).encode())}.{SIGNATURE}",
    "another header": ".".join([b64(b'{"alg":"HS256"}'), BODY, SIGNATURE]),
    "padding": GOOD + "=",
    "a character outside of the alphabet": f"{HEAD}.{BODY}.{SIGNATURE[:-1]}+",
    "the signature in hexadecimal": f"{HEAD}.{BODY}.{hs(SECRET)(f'{HEAD}.{BODY}'.encode()).hex()}",
}
CLAIM = {
    **{f"no {name}": hs_token(None, **{name: ...}) for name in ("exp", "iat", "sub", "iss", "aud")},
    **{
        f"{name} null": hs_token(None, **{name: None})
        for name in ("exp", "iat", "sub", "iss", "aud")
    },
    "expired": hs_token(exp=NOW - 60),
    "exp text": hs_token(exp=str(NOW + 600)),
    "exp true": hs_token(exp=True, iat=0),
    "exp a list": hs_token(exp=[NOW + 600]),
    "exp NaN": hs_token(exp=float("nan")),
    "exp infinite": hs_token(exp=float("inf")),
    "exp beyond any float": hs_token(exp=10**400),
    "exp after the longest lifetime": hs_token(exp=NOW + 90_000),
    "iat in the future": hs_token(iat=NOW + 60),
    "iat text": hs_token(iat="yesterday"),
    "iat infinitely long ago": hs_token(iat=float("-inf")),
    "nbf in the future": hs_token(nbf=NOW + 60),
    "nbf text": hs_token(nbf="now"),
    "nbf null": hs_token(nbf=None),
    "sub a number": hs_token(sub=7),
    "sub empty": hs_token(sub=""),
    "sub a list": hs_token(sub=["ann"]),
    "sub with a newline": hs_token(sub="ann\nbob"),
    "sub with a lone surrogate": hs_token(sub="\ud800"),
    "another issuer": hs_token(iss="https://evil.example"),
    "part of the issuer": hs_token(iss=ISSUER[:-1]),
    "issuer a list": hs_token(iss=[ISSUER]),
    "another audience": hs_token(aud="another"),
    "part of the audience": hs_token(aud=AUDIENCE[:-1]),
    "audience an object": hs_token(aud={AUDIENCE: 1}),
    "audience with a number in it": hs_token(aud=[AUDIENCE, 7]),
    "no audience in the list": hs_token(aud=[]),
    "scope a list": hs_token(scope=["a", "b"]),
    "scope a number": hs_token(scope=7),
    "scope null": hs_token(scope=None),
    "scope with two spaces": hs_token(scope="a  b"),
    "scope with a tab": hs_token(scope="a\tb"),
    "scope with a quote": hs_token(scope='a"b'),
}
STRUCTURE = {
    "typ of another kind of token": hs_token({"typ": "logout+jwt"}),
    "typ null": hs_token({"typ": None}),
    "typ a list": hs_token({"typ": ["JWT"]}),
    "crit unknown": hs_token({"crit": ["exp"], "exp": 1}),
    "crit empty": hs_token({"crit": []}),
    "crit known to the library": hs_token({"crit": ["b64"], "b64": True}),
    "b64 false": hs_token({"crit": ["b64"], "b64": False}),
    "kid a number": hs_token({"kid": 7}),
    "kid null": hs_token({"kid": None}),
    "one part": HEAD,
    "two parts": f"{HEAD}.{BODY}",
    "four parts": f"{GOOD}.{SIGNATURE}",
    "five parts, as in JWE": f"{HEAD}.{BODY}.{SIGNATURE}.{HEAD}.{BODY}",
    "empty parts": "..",
    "an empty header": f".{BODY}.{SIGNATURE}",
    "header not JSON": compact(b"{", CLAIMS_OK, hs(SECRET)),
    "header not UTF-8": compact(b'{"alg":"HS256","x":"\xff"}', CLAIMS_OK, hs(SECRET)),
    "header a list": compact([], CLAIMS_OK, hs(SECRET)),
    "header nested a thousand deep": compact(b"[" * 1500, CLAIMS_OK, hs(SECRET)),
    "claims not JSON": compact({"alg": "HS256"}, b"sub=ann", hs(SECRET)),
    "claims not UTF-8": compact({"alg": "HS256"}, b'{"sub":"\xff"}', hs(SECRET)),
    "claims a list": compact({"alg": "HS256"}, [CLAIMS_OK], hs(SECRET)),
    "claims a string": compact({"alg": "HS256"}, "ann", hs(SECRET)),
    "claims nested a thousand deep": compact({"alg": "HS256"}, b"[" * 1500, hs(SECRET)),
    "claims nothing": f"{HEAD}..{b64(hs(SECRET)(f'{HEAD}.'.encode()))}",
    "an integer of 5000 digits": compact(
        {"alg": "HS256"}, b'{"exp":' + b"9" * 5000 + b"}", hs(SECRET)
    ),
    "a token in a token": compact({"alg": "HS256", "cty": "JWT"}, GOOD.encode(), hs(SECRET)),
}
CONFUSION = {
    "HMAC with the public key's PEM": compact(
        {"alg": "HS256", "kid": "rsa"}, CLAIMS_OK, hs(pem(RSA))
    ),
    "HMAC with the public key's DER": compact(
        {"alg": "HS256", "kid": "rsa"}, CLAIMS_OK, hs(pem(RSA, DER))
    ),
    "HMAC with the JWK's text": compact(
        {"alg": "HS256", "kid": "rsa"}, CLAIMS_OK, hs(json.dumps(jwk(RSA)).encode())
    ),
    "HMAC with a symmetric key of the set": hs_token({"kid": "oct"}),
    "RSA signature under the EC key's name": compact({**RS, "kid": "ec"}, CLAIMS_OK, rs(RSA)),
    "ES256 claimed, RSA signed": compact({"alg": "ES256", "kid": "ec"}, CLAIMS_OK, rs(RSA)),
    "ES256 with a DER signature": compact({"alg": "ES256", "kid": "ec"}, CLAIMS_OK, es_der),
    "ES256 with r and s zero": compact(
        {"alg": "ES256", "kid": "ec"}, CLAIMS_OK, lambda _: bytes(64)
    ),
    "EdDSA with zeros": compact({"alg": "EdDSA", "kid": "ed"}, CLAIMS_OK, lambda _: bytes(64)),
    "RS512 under an RS256 key": compact(
        {"alg": "RS512", "kid": "rsa"},
        CLAIMS_OK,
        lambda data: RSA.sign(data, padding.PKCS1v15(), hashes.SHA512()),
    ),
    "PS256 under an RS256 key": compact(
        {"alg": "PS256", "kid": "rsa"},
        CLAIMS_OK,
        lambda data: RSA.sign(
            data, padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256()
        ),
    ),
    "none with a known key": compact({"alg": "none", "kid": "rsa"}, CLAIMS_OK, rs(RSA)),
    "a key of its own in jwk": compact(
        {"alg": "RS256", "jwk": jwk(OTHER_RSA)}, CLAIMS_OK, rs(OTHER_RSA)
    ),
    "a key of its own in jku": compact(
        {**RS, "jku": "https://evil.example/keys"}, CLAIMS_OK, rs(OTHER_RSA)
    ),
    "a certificate of its own in x5c": compact(
        {**RS, "x5c": [base64.b64encode(pem(OTHER_RSA, DER)).decode()]}, CLAIMS_OK, rs(OTHER_RSA)
    ),
}
LOOKUP = {
    "an unknown kid": compact({**RS, "kid": "nobody"}, CLAIMS_OK, rs(RSA)),
    "an empty kid": compact({**RS, "kid": ""}, CLAIMS_OK, rs(RSA)),
    "kid a path": compact({**RS, "kid": "../../dev/null"}, CLAIMS_OK, rs(RSA)),
    "kid an injection": compact({**RS, "kid": "' OR 1=1 --"}, CLAIMS_OK, rs(RSA)),
    "kid a surrogate": compact({**RS, "kid": "\udfff"}, CLAIMS_OK, rs(RSA)),
    "kid a number in jwks": compact({**RS, "kid": 7}, CLAIMS_OK, rs(OTHER_RSA)),
    "kid a list in jwks": compact({**RS, "kid": ["rsa"]}, CLAIMS_OK, rs(RSA)),
    "kid null in jwks": compact({**RS, "kid": None}, CLAIMS_OK, rs(RSA)),
    "a key for encryption": compact({**RS, "kid": "encrypts"}, CLAIMS_OK, rs(OTHER_RSA)),
    "a key for wrapping": compact({**RS, "kid": "wraps"}, CLAIMS_OK, rs(OTHER_RSA)),
    "a key for another algorithm": compact({**RS, "kid": "other-alg"}, CLAIMS_OK, rs(OTHER_RSA)),
    "a second key of the same name": compact(RS, CLAIMS_OK, rs(OTHER_RSA)),
    "a weak key": compact({**RS, "kid": "weak"}, CLAIMS_OK, rs(WEAK_RSA)),
    "a private key made public": compact({**RS, "kid": "leaked"}, CLAIMS_OK, rs(OTHER_RSA)),
    "no kid and nobody's key": compact({"alg": "RS256"}, CLAIMS_OK, rs(OTHER_RSA)),
    "expired, by JWKS": compact(RS, {**CLAIMS_OK, "exp": NOW - 60}, rs(RSA)),
    "another audience, by JWKS": compact(RS, {**CLAIMS_OK, "aud": "another"}, rs(RSA)),
    "typ of an ID token for others, by JWKS": compact({**RS, "typ": "id+jwt"}, CLAIMS_OK, rs(RSA)),
}
A = b"Authorization: "
GRAMMAR = {  # the header lines, and whether the client counts as having brought a token
    "nothing": (b"", False),
    "an empty header": (A, False),
    "another scheme": (A + b"Basic YW5uOnB3", False),
    "another scheme with the token": (A + b"DPoP " + GOOD.encode(), False),
    "the token without a scheme": (A + GOOD.encode(), False),
    "a scheme that begins alike": (A + b"Bearers " + GOOD.encode(), False),
    "a tab after the scheme": (A + b"Bearer\t" + GOOD.encode(), False),
    "a colon after the scheme": (A + b"Bearer: " + GOOD.encode(), False),
    "the scheme alone": (A + b"Bearer", True),
    "the token in quotes": (A + b'Bearer "' + GOOD.encode() + b'"', True),
    "the token as a parameter": (A + b"Bearer token=" + GOOD.encode(), True),
    "something after the token": (A + b"Bearer " + GOOD.encode() + b" x", True),
    "two tokens in one header": (A + b"Bearer " + f"{GOOD}, Bearer {GOOD}".encode(), True),
    "a comma after the token": (A + b"Bearer " + GOOD.encode() + b",", True),
    "two headers": ((A + b"Bearer " + GOOD.encode() + b"\r\n") * 2, True),
    "two headers, one of them bad": (A + b"Bearer x\r\n" + A + b"Bearer " + GOOD.encode(), True),
    "a byte that is not ASCII": (A + b"Bearer " + GOOD.encode() + b"\xff", True),
    "UTF-8": (A + "Bearer ключ".encode(), True),
    "half of a UTF-8 character": (A + b"Bearer \xd0", True),
    "a scheme that is not ASCII": (A + b"\xffearer " + GOOD.encode(), False),
    "a letter that folds to ASCII": (A + "Be\u017ferer x".encode(), False),
    "too long": (A + b"Bearer " + b"a" * 8150, True),
    "token in another header": (b"X-Authorization: Bearer " + GOOD.encode(), False),
    "token in a cookie": (b"Cookie: access_token=" + GOOD.encode(), False),
}
FAMILIES = {
    "algorithm": ("hs", ALGORITHM),
    "signature": ("hs", SIGNED),
    "claims": ("hs", CLAIM),
    "structure": ("hs", STRUCTURE),
    "confusion": ("jwks", CONFUSION),
    "lookup": ("jwks", LOOKUP),
}
CASES = [
    pytest.param(path, A + b"Bearer " + token.encode(), True, id=f"{family}: {name}")
    for family, (path, tokens) in FAMILIES.items()
    for name, token in tokens.items()
] + [
    pytest.param("hs", lines, brought, id=f"grammar: {name}")
    for name, (lines, brought) in GRAMMAR.items()
]
CHALLENGE = 'Bearer realm="test"'


async def whoami(request: web.Request) -> web.Response:
    return web.Response(text=request[CLAIMS].sub)


@public
async def issuer(_: web.Request) -> web.Response:
    return web.json_response(KEY_SET)


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """Two applications on one socket: `/hs` takes HS256, `/jwks` the keys of the issuer in it."""
    sessions: list[aiohttp.ClientSession] = []
    app = web.Application()
    app.router.add_get("/keys", issuer)
    runner = web.AppRunner(app)
    keys_at: list[JWKS] = []
    by_secret = web.Application(
        middlewares=[jwt_auth(verify=hs256_verifier(SECRET, POLICY), realm="test")]
    )

    async def key(kid: str | None, algorithm: str) -> jwt.PyJWK:
        return await keys_at[0](kid, algorithm)

    by_keys = web.Application(
        middlewares=[jwt_auth(verify=jwks_verifier(key, POLICY), realm="test")]
    )
    for each in (by_secret, by_keys):
        each.router.add_get("/", whoami)
    app.add_subapp("/hs", by_secret)
    app.add_subapp("/jwks", by_keys)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    number = runner.addresses[0][1]
    async with aiohttp.ClientSession() as session:
        sessions.append(session)
        keys_at.append(JWKS(f"http://127.0.0.1:{number}/keys", lambda: session))
        yield number
    await runner.cleanup()


async def ask(port: int, path: str, lines: bytes) -> tuple[int, dict[str, str], str]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    lines = lines.removesuffix(b"\r\n")
    writer.write(f"GET /{path}/ HTTP/1.1\r\nHost: test\r\nConnection: close\r\n".encode())
    writer.write(lines + b"\r\n\r\n" if lines else b"\r\n")
    async with asyncio.timeout(5):
        head, _, body = (await reader.read(-1)).decode().partition("\r\n\r\n")
    writer.close()
    status, *fields = head.split("\r\n")
    return int(status.split()[1]), dict(field.split(": ", 1) for field in fields), body


@pytest.mark.parametrize(("path", "token"), GOOD_ONES.values(), ids=GOOD_ONES)
async def test_a_good_token_is_let_in(port: int, path: str, token: str) -> None:
    status, _, body = await ask(port, path, b"authorization: bEaReR  " + token.encode())
    assert (status, body) == (200, "ann")


@pytest.mark.parametrize(("path", "lines", "brought"), CASES)
async def test_is_refused_with_a_challenge_and_without_a_reason(
    port: int, path: str, lines: bytes, brought: bool
) -> None:
    status, headers, body = await ask(port, path, lines)
    challenge = f'{CHALLENGE}, error="invalid_token"' if brought else CHALLENGE
    assert (status, headers.get("WWW-Authenticate")) == (401, challenge)
    assert body == "A bearer token that is valid here is required."


@pytest.mark.parametrize("where", ["access_token", "token", "ticket", "jwt"])
async def test_a_token_in_the_query_is_not_looked_at(port: int, where: str) -> None:
    status, headers, _ = await ask(port, f"hs/?{where}={GOOD}#", b"")
    assert (status, headers.get("WWW-Authenticate")) == (401, CHALLENGE)


@pytest.mark.parametrize("byte", [b"\0", b"\r", b"\n", b"\x7f", b"\x01"])
async def test_a_control_character_is_refused_by_the_parser_or_here(port: int, byte: bytes) -> None:
    status, _, _ = await ask(port, "hs", A + b"Bearer " + GOOD.encode() + byte + b"x")
    assert status in (400, 401)
