"""Basic auth for internal tools: hashed secrets, compared in constant time, off the event loop.

Snippets compare plain passwords with `==`, split at every colon, answer 200 or 500 where 401 is
meant, or hash a slow hash on the event loop at each request.

Wiring::

    app.middlewares.append(basic_auth({"ada": hash_password("s3cret, long")}, realm="tools"))

    async def whoami(request: web.Request) -> web.Response:
        return web.Response(text=request[USER])

Needs: aiohttp>=3.14.4
Order: inside errors and a rate limit, outside everything that it protects; a sub-application of
    its own keeps it away from public routes.
Not: TLS, without which the password is readable, nor log-out: a browser repeats it until closed.
    Make the hashes beforehand, and keep them in the settings: never the passwords.
"""

import asyncio
import binascii
import hashlib
import hmac
import json
import os
from base64 import b64decode, b64encode
from collections.abc import Mapping
from unicodedata import normalize

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

__all__ = ["USER", "basic_auth", "hash_password"]

USER = web.RequestKey("basic_auth_user", str)
COST, BLOCK = 2**14, 8  # 16 MiB and about 40 ms a check
MAX_CHECKS = 4  # at once: a flood of guesses takes four threads and 64 MiB, not all there is
MAX_CREDENTIALS = 1024  # characters of base64
MAX_REMEMBERED = 1024


def hash_password(password: str) -> str:
    """The password as `scrypt$cost$salt$hash` (RFC 7914), with a salt of its own."""
    salt = os.urandom(16)
    return "$".join(("scrypt", str(COST), _text(salt), _text(_scrypt(password, salt, COST))))


def basic_auth(users: Mapping[str, str], *, realm: str) -> Middleware:
    """Let a request through with `USER` set, or raise 401 with a challenge (RFC 7617, section 2).

    `users` maps names to what `hash_password` gave; ValueError for what is no hash. A password is
    first checked in a thread (503 when too many are), then known by a digest under a key of this
    process, which costs microseconds. An unknown name takes as long as a wrong password.
    """
    known = {_normal(name): _parsed(each) for name, each in users.items()}
    nobody = _parsed(hash_password(""))
    challenge = f'Basic realm={json.dumps(realm)}, charset="UTF-8"'
    key, remembered = os.urandom(32), dict[bytes, None]()
    checking = 0

    async def is_right(name: str, password: str) -> bool:
        nonlocal checking
        digest = hmac.digest(key, f"{name}:{password}".encode(), "sha256")
        if digest in remembered:  # its time tells nothing: no one can aim at a digest
            return True
        if checking >= MAX_CHECKS:
            raise _busy()
        cost, salt, expected = known.get(name, nobody)
        checking += 1
        try:
            found = await asyncio.to_thread(_scrypt, password, salt, cost)
        finally:
            checking -= 1
        if not hmac.compare_digest(found, expected) or name not in known:
            return False
        _remember(remembered, digest)
        return True

    @web.middleware
    async def auth(request: web.Request, handler: Handler) -> web.StreamResponse:
        credentials = _credentials(request)
        if credentials is None or not await is_right(*credentials):
            raise _unauthorized(challenge)
        request[USER] = credentials[0]
        return await handler(request)

    return auth


def _unauthorized(challenge: str) -> web.HTTPUnauthorized:
    text = "A name and a password that are valid here are required."
    return web.HTTPUnauthorized(text=text, headers={hdrs.WWW_AUTHENTICATE: challenge})


def _busy() -> web.HTTPServiceUnavailable:
    text = "Too many passwords are being checked; try again."
    return web.HTTPServiceUnavailable(text=text, headers={hdrs.RETRY_AFTER: "1"})


def _remember(remembered: dict[bytes, None], digest: bytes) -> None:
    if len(remembered) >= MAX_REMEMBERED:
        del remembered[next(iter(remembered))]
    remembered[digest] = None


def _credentials(request: web.Request) -> tuple[str, str] | None:
    """Name and password of the header; None when there is none, or what is there is malformed."""
    values = request.headers.getall(hdrs.AUTHORIZATION, [""])
    scheme, _, encoded = values[0].partition(" ")
    if scheme.lower() != "basic" or len(values) > 1 or len(encoded) > MAX_CREDENTIALS:
        return None
    try:
        text = b64decode(encoded.strip(" "), validate=True).decode()
    except (binascii.Error, ValueError):  # not base64, not ASCII, not UTF-8
        return None
    name, colon, password = text.partition(":")  # a password may hold more colons, a name none
    if not colon or any(ord(each) < 32 or ord(each) == 127 for each in text):
        return None
    return _normal(name), _normal(password)


def _scrypt(password: str, salt: bytes, cost: int) -> bytes:
    secret = _normal(password).encode()
    return hashlib.scrypt(secret, salt=salt, n=cost, r=BLOCK, p=1, maxmem=2**26, dklen=32)


def _parsed(text: str) -> tuple[int, bytes, bytes]:
    try:
        kind, cost, salt, digest = text.split("$")
        parsed = int(cost), b64decode(salt, validate=True), b64decode(digest, validate=True)
    except ValueError:
        kind, parsed = "", (0, b"", b"")
    if kind != "scrypt" or len(parsed[2]) != 32:
        raise ValueError("a user's secret is not what hash_password gives")
    return parsed


def _normal(text: str) -> str:
    return normalize("NFC", text)  # RFC 8265: one spelling of an accent, whatever the keyboard


def _text(data: bytes) -> str:
    return b64encode(data).decode()
