"""What development adds: tokens signed with the service's own secret."""

import time
from collections.abc import Iterable

import jwt

from .settings import Settings

__all__ = ["dev_token"]


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
