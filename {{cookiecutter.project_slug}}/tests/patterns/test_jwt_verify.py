"""What the verifiers accept, and what they refuse to be built with."""

import textwrap
from base64 import urlsafe_b64encode
from collections.abc import Mapping

import jwt
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from {{cookiecutter.package_name}}.patterns import jwt_verify
from {{cookiecutter.package_name}}.patterns.jwt_verify import (
    TokenPolicy,
    hs256_verifier,
    jwks_verifier,
)

SECRET = b"0123456789abcdef0123456789abcdef"
KEY = ec.generate_private_key(ec.SECP256R1())
NOW = 1_000_000.0
POLICY = TokenPolicy(issuer="https://issuer.example", audience="my-service", now=lambda: NOW)
CLAIMS: dict[str, object] = {
    "iss": POLICY.issuer,
    "aud": POLICY.audience,
    "sub": "ann",
    "iat": NOW,
    "exp": NOW + 600,
}


async def verified(**claims: object) -> Mapping[str, object]:
    return await hs256_verifier(SECRET, POLICY)(jwt.encode({**CLAIMS, **claims}, SECRET))


async def key_source(kid: str | None, algorithm: str) -> jwt.PyJWK:
    if (kid, algorithm) != ("one", "ES256"):
        raise LookupError
    made = jwt.get_algorithm_by_name("ES256").to_jwk(KEY.public_key(), as_dict=True)
    return jwt.PyJWK(made, "ES256")


async def test_the_wiring_in_the_docstring_works() -> None:
    names = {**vars(jwt_verify), "secret": SECRET}
    block = (jwt_verify.__doc__ or "").split("Wiring::")[1].split("Needs:")[0]
    exec(textwrap.dedent(block), names)  # noqa: S102
    assert callable(names["verify"])


async def test_returns_the_payload() -> None:
    assert await verified(tenant="t") == {**CLAIMS, "tenant": "t"}


async def test_returns_the_payload_of_a_token_signed_by_a_key_of_the_source() -> None:
    token = jwt.encode(CLAIMS, KEY, "ES256", {"kid": "one"})
    assert await jwks_verifier(key_source, POLICY)(token) == CLAIMS


@pytest.mark.parametrize(
    ("claim", "last_good", "first_bad", "reason"),
    [
        ("exp", NOW - 9.5, NOW - 10, "expired"),
        ("iat", NOW + 10, NOW + 10.5, "future"),
        ("nbf", NOW + 10, NOW + 10.5, "not yet valid"),
        ("exp", NOW + 86_400, NOW + 86_401, "lifetime"),
    ],
)
async def test_times_are_exact_to_the_leeway(
    claim: str, last_good: float, first_bad: float, reason: str
) -> None:
    assert await verified(**{claim: last_good})
    with pytest.raises(ValueError, match=reason):
        await verified(**{claim: first_bad})


@pytest.mark.parametrize("value", [None, True, "1", [1], 1e300, 10**400])
async def test_a_time_is_a_number_in_reach(value: object) -> None:
    with pytest.raises(ValueError, match=r"bad exp|MissingRequiredClaim"):
        await verified(exp=value)


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({"alg": "HS256"}, "algorithm"),
        ({"alg": "ES256", "kid": "two"}, "unknown key"),
        ({"alg": "ES256", "kid": "one", "typ": "id+jwt"}, "typ"),
    ],
)
async def test_the_reason_is_fit_for_a_log(header: dict[str, object], reason: str) -> None:
    token = jwt.encode(CLAIMS, SECRET if header["alg"] == "HS256" else KEY, None, header)
    with pytest.raises(ValueError, match=reason) as refused:
        await jwks_verifier(key_source, POLICY)(token)
    assert refused.value.__cause__ is None


@pytest.mark.parametrize(
    "token", ["", "a", "a.b", "a.b.c", "a.b.c.d", "é.é.é", "\udcff", "a.b.c\n"]
)
async def test_any_text_is_refused_with_a_value_error(token: str) -> None:
    for verify in (hs256_verifier(SECRET, POLICY), jwks_verifier(key_source, POLICY)):
        with pytest.raises(ValueError, match=r"malformed|DecodeError"):
            await verify(token)


async def test_an_error_of_the_library_outside_of_its_token_errors_is_a_refusal() -> None:
    weak = rsa.generate_private_key(65537, 1024)  # noqa: S505  # the key source let it slip

    async def careless(kid: str | None, algorithm: str) -> jwt.PyJWK:
        made = jwt.get_algorithm_by_name(algorithm).to_jwk(weak.public_key(), as_dict=True)
        return jwt.PyJWK({**made, "kid": kid}, algorithm)

    data = jwt.PyJWS().encode(b"{}", KEY, "ES256", {"kid": "weak"}).split(".")[1]
    head = urlsafe_b64encode(b'{"alg":"RS256","kid":"weak"}').decode().rstrip("=")
    signature = weak.sign(f"{head}.{data}".encode(), padding.PKCS1v15(), hashes.SHA256())
    token = f"{head}.{data}.{urlsafe_b64encode(signature).decode().rstrip('=')}"
    with pytest.raises(ValueError, match="InvalidKeyError"):
        await jwks_verifier(careless, POLICY)(token)


async def test_a_failure_of_the_key_source_is_its_own() -> None:
    async def broken(kid: str | None, algorithm: str) -> jwt.PyJWK:
        raise RuntimeError(kid, algorithm)

    with pytest.raises(RuntimeError):
        await jwks_verifier(broken, POLICY)(jwt.encode(CLAIMS, KEY, "ES256"))


@pytest.mark.parametrize("secret", [b"", b"short", b"x" * 31])
def test_a_short_secret_is_refused(secret: bytes) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        hs256_verifier(secret, POLICY)


def test_a_public_key_is_refused_as_a_secret() -> None:
    pem = KEY.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    with pytest.raises(ValueError, match="not a public key"):
        hs256_verifier(pem, POLICY)


@pytest.mark.parametrize(
    ("issuer", "audience", "leeway"), [("", "a", 10), ("i", "", 10), ("i", "a", -1), ("i", "a", 61)]
)
def test_a_policy_that_checks_too_little_is_refused(
    issuer: str, audience: str, leeway: float
) -> None:
    with pytest.raises(ValueError, match="must"):
        TokenPolicy(issuer=issuer, audience=audience, leeway=leeway)
