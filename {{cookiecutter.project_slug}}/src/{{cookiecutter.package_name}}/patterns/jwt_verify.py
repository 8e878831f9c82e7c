"""Verify a JSON Web Token by the book: what PyJWT leaves to its caller is done here.

PyJWT accepts a token without `exp`, leaves `typ` unread, and raises more than its own errors on
bytes from strangers (RFC 8725 section 3, RFC 9068 section 4).

Wiring::

    policy = TokenPolicy(issuer="https://issuer.example", audience="my-service")
    verify = hs256_verifier(secret, policy)

Needs: pyjwt[crypto]>=2.14
Order: none; `jwt_auth(verify=verify)` calls it for tokens that are not in its cache.
Not: scopes and subject, which `jwt_auth.py` reads; revocation before `exp`.
"""

import re
import time
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import jwt

__all__ = ["KeySource", "TokenPolicy", "Verify", "hs256_verifier", "jwks_verifier"]

# The payload of a token that passed; raises ValueError with a reason that is fit for a log.
Verify = Callable[[str], Awaitable[Mapping[str, object]]]
# (kid, algorithm) -> the one key that fits, its algorithm bound to it; raises LookupError.
KeySource = Callable[[str | None, str], Awaitable[jwt.PyJWK]]

ASYMMETRIC = ("RS256", "ES256", "EdDSA")
TYPES = ("jwt", "at+jwt", "application/at+jwt")
COMPACT = re.compile(r"[\w-]+\.[\w-]+\.[\w-]+", re.ASCII)  # RFC 7515: no padding, three parts
NEVER = 2**53  # beyond this a JSON number is not a time; NaN and infinities compare as beyond, too
DECODER = jwt.PyJWT(
    {
        "require": ["exp", "iat", "sub", "iss", "aud"],
        "enforce_minimum_key_length": True,
        "verify_exp": False,  # times are checked by the policy's clock and without rounding
        "verify_iat": False,
        "verify_nbf": False,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenPolicy:
    """What a token must say; `leeway` (for clocks that differ) and `max_lifetime` in seconds."""

    issuer: str
    audience: str
    leeway: float = 10.0
    max_lifetime: float = 86_400.0
    now: Callable[[], float] = time.time

    def __post_init__(self) -> None:
        if not self.issuer or not self.audience:
            raise ValueError("issuer and audience must not be empty")
        if not 0 <= self.leeway <= 60:
            raise ValueError("leeway must be between 0 and 60 seconds")


def hs256_verifier(secret: bytes, policy: TokenPolicy) -> Verify:
    """Verify HS256 and nothing else; ValueError for a secret under 32 bytes (RFC 7518 3.2)."""
    if len(secret) < 32:
        raise ValueError("the HS256 secret must have at least 32 bytes")
    try:
        jwt.get_algorithm_by_name("HS256").prepare_key(secret)
    except jwt.PyJWTError:
        raise ValueError("the HS256 secret must be random bytes, not a public key") from None

    async def verify(token: str) -> Mapping[str, object]:
        return _payload(token, secret, "HS256", policy)

    return verify


def jwks_verifier(keys: KeySource, policy: TokenPolicy) -> Verify:
    """Verify RS256, ES256 and EdDSA with the key the source has for the token's `kid`.

    The token names a key and never supplies one: `jku`, `jwk`, `x5u` and `x5c` are not read, and
    the algorithm is the key's own.
    """

    async def verify(token: str) -> Mapping[str, object]:
        with _guarded(token):
            header = jwt.get_unverified_header(token)
        if (algorithm := header.get("alg")) not in ASYMMETRIC:
            raise ValueError("algorithm")
        try:
            key = await keys(header.get("kid"), algorithm)
        except LookupError:
            raise ValueError("unknown key") from None
        return _payload(token, key, algorithm, policy)

    return verify


def _payload(
    token: str, key: bytes | jwt.PyJWK, algorithm: str, policy: TokenPolicy
) -> Mapping[str, object]:
    aud, iss = policy.audience, policy.issuer
    with _guarded(token):
        decoded = DECODER.decode_complete(token, key, [algorithm], audience=aud, issuer=iss)
    header: dict[str, object] = decoded["header"]
    payload: dict[str, object] = decoded["payload"]
    if "typ" in header and str(header["typ"]).lower() not in TYPES:
        raise ValueError("typ")  # an ID token, a logout token: signed by the same key, no access
    if "crit" in header or "b64" in header:
        raise ValueError("crit")  # no extension is understood here (RFC 7515 section 4.1.11)
    now, expires, issued = policy.now(), _time(payload, "exp"), _time(payload, "iat")
    if expires <= now - policy.leeway:
        raise ValueError("expired")
    if issued > now + policy.leeway:
        raise ValueError("issued in the future")
    if expires - issued > policy.max_lifetime:
        raise ValueError("lifetime")
    if "nbf" in payload and _time(payload, "nbf") > now + policy.leeway:
        raise ValueError("not yet valid")
    return payload


def _time(payload: Mapping[str, object], name: str) -> float:
    value = payload[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not -NEVER < value < NEVER:
        raise ValueError(f"bad {name}")
    return value


@contextmanager
def _guarded(token: str) -> Generator[None]:
    """PyJWT and what is below it raise no closed set of errors; a stranger's bytes are no 500."""
    if not COMPACT.fullmatch(token):
        raise ValueError("malformed")
    try:
        yield
    except Exception as error:
        raise ValueError(type(error).__name__) from None
