"""What development adds: tokens signed with the service's own secret, and lines for people."""

import time
from collections.abc import Iterable, Mapping

import jwt

from .patterns.json_logging import console_line
from .settings import Settings

__all__ = ["dev_token", "request_line"]


def dev_token(
    settings: Settings, *, sub: str, scopes: Iterable[str], lifetime: float = 3600
) -> str:
    """A bearer token this service accepts for `lifetime` seconds (RFC 9068).

    Raises ValueError outside of development, and when the keys are an issuer's.
    """
    if settings.env != "dev" or settings.jwt_jwks_url is not None:
        raise ValueError("tokens are made here in development alone, with APP_JWT_SECRET")
    now = int(time.time())
    claims = {
        "iss": settings.jwt_issuer,
        "aud": settings.jwt_audience,
        "sub": sub,
        "scope": " ".join(scopes),
        "iat": now,
        "exp": now + int(lifetime),
    }
    key = settings.jwt_secret.get_secret_value()
    return jwt.encode(claims, key, algorithm="HS256", headers={"typ": "at+jwt"})


def request_line(fields: Mapping[str, object]) -> bytes:
    """The request log for a terminal: what was asked, what became of it, and how to find it."""
    shown = {name: fields.get(name) for name in ("ts", "level", "duration_ms", "sub", "request_id")}
    return console_line({**shown, "msg": "{method} {path} {status}".format_map(fields)})
