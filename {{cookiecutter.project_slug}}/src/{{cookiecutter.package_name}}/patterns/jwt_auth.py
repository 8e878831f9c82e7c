"""Bearer tokens: every route needs one, and the exceptions are marked on the handlers themselves.

A list of public path prefixes is walked around by the next route that happens to begin like one;
here a route without a mark needs a token, so forgetting the mark locks a door, never opens it.

Wiring::

    app.middlewares.append(jwt_auth(verify=verify, realm="my-service"))
    app.router.add_get("/me", me)
    app.router.add_get("/reports", scope("reports:read")(reports))
    app.router.add_get("/livez", public(livez))

Needs: aiohttp>=3.14.4
Order: inside errors (which formats the 401) and CORS (which answers preflights), last of all.
Not: verification, cache and tickets, which are passed in. A partial, or a decorator without
    `functools.wraps`, loses the marks.
"""

import json
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

__all__ = [
    "AUTH_FAILURE",
    "CLAIMS",
    "Claims",
    "jwt_auth",
    "public",
    "required_scopes",
    "scope",
    "ticketed",
]

Marked = TypeVar("Marked", bound=Callable[..., object])
# Token, or ticket and path, -> verified payload; ValueError with a reason for the log, no secret.
Verify = Callable[[str], Awaitable[Mapping[str, object]]]
Redeem = Callable[[str, str], Mapping[str, object]]

SCOPES, TICKETED = "__auth_scopes__", "__auth_ticketed__"
ANY_TOKEN: frozenset[str] = frozenset()
# RFC 6750 section 2.1; what is longer is refused before anything is decoded.
TOKEN68 = re.compile(r"(?!.{8193})[A-Za-z0-9._~+/-]+=*")
SCOPE = re.compile(r"[!#-\[\]-~]+")  # RFC 6749 section 3.3, one scope-token
SCOPES_CLAIM = re.compile(f"({SCOPE.pattern}( {SCOPE.pattern})*)?")


@dataclass(frozen=True, slots=True)
class Claims:
    """Who is asking. `expires_at` is in Unix seconds; `payload` holds every verified claim."""

    sub: str
    scopes: frozenset[str]
    expires_at: float
    payload: Mapping[str, object] = field(default_factory=dict[str, object], repr=False)


class Cache(Protocol):
    """Remembers verified tokens, and forgets them itself when they end."""

    def get(self, token: str) -> Claims | None: ...
    def put(self, token: str, value: Claims, expires_at: float) -> None: ...


CLAIMS = web.RequestKey("claims", Claims)
AUTH_FAILURE = web.RequestKey("auth_failure", str)  # why a request was refused, for the log only


def public(handler: Marked) -> Marked:
    """Mark a handler, a class-based view or one of its methods as open to everybody."""
    return _marked(handler, None)


def scope(*names: str) -> Callable[[Marked], Marked]:
    """Mark a handler as needing all of these scopes; `scope()` alone means any valid token."""
    if not all(SCOPE.fullmatch(name) for name in names):
        raise ValueError(f"not scopes by RFC 6749 section 3.3: {names}")
    return lambda handler: _marked(handler, frozenset(names))


def ticketed(handler: Marked) -> Marked:
    """Let browsers, which cannot set headers on streams, bring `?ticket=` instead of a token."""
    setattr(handler, TICKETED, True)
    return handler


def required_scopes(handler: object, method: str = "GET") -> frozenset[str] | None:
    """The scopes a route's handler needs, empty for any valid token, None when it is public."""
    needed: frozenset[str] | None = _mark(handler, method, SCOPES, ANY_TOKEN)
    return needed


def jwt_auth(
    *, verify: Verify, realm: str, cache: Cache | None = None, ticket: Redeem | None = None
) -> Middleware:
    """Let a request through with `CLAIMS` set, or raise 401 or 403 as RFC 6750 section 3 says.

    Whatever the Authorization header holds, the answer is a 401 that tells the client no reason;
    `AUTH_FAILURE` tells the log. An HTTP exception of `verify` (503: no keys yet) passes through.
    """
    challenge = f"Bearer realm={json.dumps(realm)}"  # whose escapes a quoted-string allows

    @web.middleware
    async def auth(request: web.Request, handler: Handler) -> web.StreamResponse:
        needed = required_scopes(request.match_info.handler, request.method)
        # 404 and 405 need no token: they tell only the routes, which the OpenAPI document lists.
        if needed is None or request.match_info.http_exception is not None:
            return await handler(request)
        try:
            token, claims = _bearer(request), None
            if ticket is not None and request.rel_url.raw_query_string:
                claims = _redeemed(request, token, ticket)
            if token is not None and cache is not None:
                claims = cache.get(token)
            if token is not None and claims is None:
                claims = await _verified(token, verify, cache)
        except ValueError as error:
            raise _refusal(request, str(error), f'{challenge}, error="invalid_token"') from None
        if claims is None:  # RFC 6750 section 3.1: no error code for a client that brought nothing
            raise _refusal(request, "missing", challenge)
        request[CLAIMS] = claims
        if not needed <= claims.scopes:
            raise _refusal(request, "scope", f'{challenge}, error="insufficient_scope"', needed)
        del token  # or it would stay in memory for as long as a stream is open
        return await handler(request)

    return auth


def _bearer(request: web.Request) -> str | None:
    """What the header holds; another scheme counts as nothing (RFC 6750 section 3.1)."""
    values = request.headers.getall("Authorization", [""])
    if len(values) > 1:
        raise ValueError("several Authorization headers")
    scheme, _, credentials = values[0].partition(" ")
    return credentials.lstrip(" ") if scheme.lower() == "bearer" else None


def _redeemed(request: web.Request, token: str | None, redeem: Redeem) -> Claims | None:
    """The claims of a ticket; where no route takes one, `?ticket=` is any other parameter."""
    if not _mark(request.match_info.handler, request.method, TICKETED, False):
        return None
    tickets = request.query.getall("ticket", [])
    if len(tickets) + (token is not None) > 1:  # RFC 6750 section 2: one method only
        raise ValueError("ambiguous credentials")
    return _claims(redeem(tickets[0], request.rel_url.raw_path)) if tickets else None


async def _verified(token: str, verify: Verify, cache: Cache | None) -> Claims:
    # Only now, as what the cache holds passed here before, letter by letter.
    if not TOKEN68.fullmatch(token):
        raise ValueError("malformed credentials")
    claims = _claims(await verify(token))
    if cache is not None:
        cache.put(token, claims, claims.expires_at)
    return claims


def _claims(payload: Mapping[str, object]) -> Claims:
    sub, scopes, expires_at = payload.get("sub"), payload.get("scope", ""), payload.get("exp")
    # Not printable are also lone surrogates, which JSON can carry and no log line can encode.
    if not isinstance(sub, str) or not sub or not sub.isprintable():
        raise ValueError("bad sub")
    if not isinstance(expires_at, int | float) or isinstance(expires_at, bool):
        raise ValueError("bad exp")  # noqa: TRY004  # a bad token, not a programming error
    if not isinstance(scopes, str) or not SCOPES_CLAIM.fullmatch(scopes):
        raise ValueError("bad scope")
    return Claims(sub, frozenset(scopes.split()), expires_at, payload)


def _marked(handler: Marked, scopes: frozenset[str] | None) -> Marked:
    """Two `scope` marks add up; `public` beside `scope` is a contradiction, refused at import."""
    known: frozenset[str] | None = vars(handler).get(SCOPES, scopes)
    if (known is None) != (scopes is None):
        raise ValueError(f"both public and scoped: {handler!r}")
    setattr(handler, SCOPES, None if known is None or scopes is None else known | scopes)
    return handler


def _mark(handler: object, method: str, name: str, default: object) -> Any:
    """What the handler is marked with; in a class-based view the method's own mark wins."""
    if isinstance(handler, type):
        default = getattr(handler, name, default)
        handler = getattr(handler, method.lower(), None)
    return getattr(handler, name, default)


def _refusal(
    request: web.Request, why: str, challenge: str, needed: frozenset[str] = frozenset()
) -> web.HTTPError:
    request[AUTH_FAILURE] = why
    kind = web.HTTPForbidden if needed else web.HTTPUnauthorized
    scopes = f', scope="{" ".join(sorted(needed))}"' if needed else ""
    text = "A bearer token that is valid here is required."
    return kind(headers={"WWW-Authenticate": challenge + scopes}, text=text)
