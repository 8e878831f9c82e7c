"""Who gets in where: marks, challenges, claims, cache and tickets. The verifier is a stub."""

import textwrap
from collections.abc import AsyncIterator, Callable, Mapping
from functools import wraps

import pytest
from aiohttp import ClientSession, web
from aiohttp.typedefs import Handler
from pytest_aiohttp import AiohttpClient

from {{cookiecutter.package_name}}.patterns import jwt_auth as pattern
from {{cookiecutter.package_name}}.patterns.jwt_auth import (
    AUTH_FAILURE,
    CLAIMS,
    Claims,
    jwt_auth,
    public,
    required_scopes,
    scope,
    ticketed,
)

PAYLOADS: dict[str, dict[str, object]] = {
    "ann": {"sub": "ann", "scope": "a b", "exp": 2000, "tenant": "t"},
    "bob": {"sub": "bob", "exp": 2000},
}
INVALID = 'Bearer realm="r", error="invalid_token"'


async def verify(token: str) -> Mapping[str, object]:
    if token not in PAYLOADS:
        raise ValueError("unknown")
    return PAYLOADS[token]


def redeem(ticket: str, path: str) -> Mapping[str, object]:
    if (ticket, path) != ("good", "/stream"):
        raise ValueError("bad ticket")
    return PAYLOADS["ann"]


async def whoami(request: web.Request) -> web.Response:
    claims = request[CLAIMS]
    return web.json_response([claims.sub, sorted(claims.scopes), claims.expires_at])


async def anybody(request: web.Request) -> web.Response:
    return web.Response(text=str(CLAIMS in request))


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def build(handler: Handler | type[web.View], **more: object) -> web.Application:
    app = web.Application(
        middlewares=[jwt_auth(verify=verify, realm="r", ticket=redeem, **more)]  # type: ignore[arg-type]  # a test's own arguments
    )
    app.router.add_route("*" if isinstance(handler, type) else "GET", "/stream", handler)
    return app


async def test_the_wiring_in_the_docstring_works(aiohttp_client: AiohttpClient) -> None:
    async def reports(request: web.Request) -> web.Response:
        return await whoami(request)

    names: dict[str, object] = {**vars(pattern), "app": (app := web.Application())}
    names |= {"verify": verify, "me": whoami, "reports": reports, "livez": anybody}
    exec(textwrap.dedent((pattern.__doc__ or "").split("Wiring::")[1].split("Needs:")[0]), names)  # noqa: S102
    client = await aiohttp_client(app)
    paths = ("/me", "/reports", "/livez")
    assert [(await client.get(path)).status for path in paths] == [401, 401, 200]
    assert [(await client.get(p, headers=bearer("bob"))).status for p in paths] == [200, 403, 200]
    del anybody.__auth_scopes__  # type: ignore[attr-defined]  # the mark the wiring has set


async def test_a_route_without_a_mark_needs_a_token(aiohttp_client: AiohttpClient) -> None:
    client = await aiohttp_client(build(whoami))
    response = await client.get("/stream")
    assert response.status == 401
    assert response.headers["WWW-Authenticate"] == 'Bearer realm="r"'
    response = await client.get("/stream", headers=bearer("ann"))
    assert await response.json() == ["ann", ["a", "b"], 2000]


async def test_a_lacking_scope_is_a_403_that_names_what_is_needed(
    aiohttp_client: AiohttpClient,
) -> None:
    @scope("b", "c")
    async def handler(request: web.Request) -> web.Response:
        return await whoami(request)

    client = await aiohttp_client(build(handler))
    response = await client.get("/stream", headers=bearer("ann"))
    assert response.status == 403
    challenge = 'Bearer realm="r", error="insufficient_scope", scope="b c"'
    assert response.headers["WWW-Authenticate"] == challenge


async def test_a_public_route_does_not_look_at_a_token(aiohttp_client: AiohttpClient) -> None:
    @public
    async def handler(request: web.Request) -> web.Response:
        return await anybody(request)

    client = await aiohttp_client(build(handler))
    for token in ("ann", "rubbish"):
        response = await client.get("/stream", headers=bearer(token))
        assert (response.status, await response.text()) == (200, "False")


async def test_no_route_and_another_method_need_no_token(aiohttp_client: AiohttpClient) -> None:
    client = await aiohttp_client(build(whoami))
    missing, wrong = await client.get("/nowhere"), await client.post("/stream")
    assert (missing.status, wrong.status, wrong.headers["Allow"]) == (404, 405, "GET")


async def test_a_path_that_begins_like_a_public_one_is_not_public(
    aiohttp_client: AiohttpClient,
) -> None:
    @public
    async def health(request: web.Request) -> web.Response:
        return await anybody(request)

    app = build(health)
    app.router.add_get("/stream/secret", whoami)
    app.router.add_get("/stream-secret", whoami)
    client = await aiohttp_client(app)
    paths = ("/stream", "/stream/secret", "/stream-secret")
    assert [(await client.get(path)).status for path in paths] == [200, 401, 401]


async def test_a_mark_survives_a_decorator_on_either_side() -> None:
    def traced(handler: Handler) -> Handler:
        @wraps(handler)
        async def wrapper(request: web.Request) -> web.StreamResponse:
            return await handler(request)

        return wrapper

    async def one(request: web.Request) -> web.StreamResponse:
        return await anybody(request)

    assert required_scopes(traced(scope("a")(one))) == frozenset("a")
    assert required_scopes(scope("b")(traced(one))) == frozenset("ab")


def test_marks_of_scopes_add_up() -> None:
    async def handler(request: web.Request) -> web.Response:
        return await anybody(request)

    assert required_scopes(scope("a")(scope("b", "c")(handler))) == frozenset("abc")


def test_scope_without_names_means_any_token() -> None:
    async def handler(request: web.Request) -> web.Response:
        return await anybody(request)

    assert required_scopes(scope()(handler)) == frozenset()


@pytest.mark.parametrize("marks", [(public, scope("a")), (scope("a"), public), (scope(), public)])
def test_public_and_scope_contradict_each_other(
    marks: tuple[Callable[[Handler], Handler], ...],
) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        return await anybody(request)

    with pytest.raises(ValueError, match="both public and scoped"):
        marks[0](marks[1](handler))


@pytest.mark.parametrize("name", ["", "two words", 'quo"te', "back\\slash", "ключ", "a\n"])
def test_a_name_that_can_be_in_no_token_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not scopes"):
        scope("a", name)


@scope("a")
class Marked(web.View):
    async def get(self) -> web.Response:
        return await anybody(self.request)

    @scope("b")
    async def post(self) -> web.Response:
        return await anybody(self.request)

    @public
    async def put(self) -> web.Response:
        return await anybody(self.request)


class Unmarked(web.View):
    async def get(self) -> web.Response:
        return await anybody(self.request)


@pytest.mark.parametrize(
    ("view", "method", "needed"),
    [
        (Marked, "GET", {"a"}),
        (Marked, "POST", {"b"}),
        (Marked, "PUT", None),
        (Marked, "DELETE", {"a"}),
        (Unmarked, "GET", set()),
        (Unmarked, "REQUEST", set()),
    ],
)
def test_the_mark_of_a_method_wins_over_that_of_its_class(
    view: type[web.View], method: str, needed: set[str] | None
) -> None:
    assert required_scopes(view, method) == needed


async def test_a_class_based_view_is_guarded_method_by_method(
    aiohttp_client: AiohttpClient,
) -> None:
    client = await aiohttp_client(build(Marked))
    headers = bearer("bob")
    methods = ("GET", "POST", "PUT", "DELETE")
    answers = [(await client.request(m, "/stream", headers=headers)).status for m in methods]
    assert answers == [403, 403, 200, 403]
    assert [(await client.request(m, "/stream")).status for m in methods] == [401, 401, 200, 401]


async def test_every_route_of_the_router_is_guarded_unless_it_is_marked(
    aiohttp_client: AiohttpClient,
) -> None:
    @public
    async def opened(request: web.Request) -> web.Response:
        return await anybody(request)

    app = build(Marked)
    app.router.add_get("/open", opened)
    app.router.add_get("/closed", whoami)
    app.router.add_static("/static", ".")
    inner = web.Application()
    inner.router.add_get("/closed", whoami)
    app.add_subapp("/inner", inner)
    client = await aiohttp_client(app)
    unguarded = set()
    for resource in app.router.resources():
        for route in resource:
            method, path = ("GET" if route.method == "*" else route.method), resource.canonical
            if (await client.request(method, path)).status not in (401, 404):
                unguarded.add((method, path))
    assert unguarded == {("GET", "/open"), ("HEAD", "/open")}
    assert (await client.get("/inner/closed")).status == 401
    assert (await client.get("/static/pyproject.toml")).status == 401


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"sub": "ann"},
        {"sub": "ann", "exp": "2000"},
        {"sub": "ann", "exp": True},
        {"sub": "", "exp": 2000},
        {"sub": "\x1b[31m", "exp": 2000},
        {"sub": "ann", "exp": 2000, "scope": ["a"]},
        {"sub": "ann", "exp": 2000, "scope": " a"},
    ],
)
async def test_a_payload_that_names_no_one_is_refused_whoever_verified_it(
    aiohttp_client: AiohttpClient, payload: dict[str, object]
) -> None:
    async def lax(_: str) -> Mapping[str, object]:
        return payload

    app = web.Application(middlewares=[jwt_auth(verify=lax, realm="r")])
    app.router.add_get("/", whoami)
    client = await aiohttp_client(app)
    assert (await client.get("/", headers=bearer("x"))).headers["WWW-Authenticate"] == INVALID


def test_claims_keep_every_verified_claim_but_out_of_logs() -> None:
    claims = Claims("ann", frozenset("a"), 2000.0, {"email": "ann@example.org"})
    assert "example.org" not in repr(claims)
    assert claims.payload["email"] == "ann@example.org"


@pytest.mark.parametrize(
    "text", ["", "ann bob", "ann,bob", '"ann"', "a=b", "=", "a\tb", "ann;", "å"]
)
async def test_what_is_no_token_by_its_grammar_never_reaches_the_verifier(
    aiohttp_client: AiohttpClient, text: str
) -> None:
    async def never(token: str) -> Mapping[str, object]:
        raise AssertionError(token)

    app = web.Application(middlewares=[jwt_auth(verify=never, realm="r")])
    app.router.add_get("/", whoami)
    client = await aiohttp_client(app)
    response = await client.get("/", headers={"Authorization": f"BEARER  {text}"})
    assert (response.status, response.headers["WWW-Authenticate"]) == (401, INVALID)


class Dictionary:
    """A cache that keeps everything; the real one has its own tests."""

    def __init__(self) -> None:
        self.entries: dict[str, Claims] = {}

    def get(self, token: str) -> Claims | None:
        return self.entries.get(token)

    def put(self, token: str, value: Claims, expires_at: float) -> None:
        assert expires_at == value.expires_at
        self.entries[token] = value


async def test_a_verified_token_is_verified_once(aiohttp_client: AiohttpClient) -> None:
    calls: list[str] = []

    async def counting(token: str) -> Mapping[str, object]:
        calls.append(token)
        return await verify(token)

    cache = Dictionary()
    app = web.Application(middlewares=[jwt_auth(verify=counting, realm="r", cache=cache)])
    app.router.add_get("/", whoami)
    client = await aiohttp_client(app)
    for token in ("ann", "ann", "evil", "evil"):
        await client.get("/", headers=bearer(token))
    assert calls == ["ann", "evil", "evil"]
    assert list(cache.entries) == ["ann"]


async def test_a_cached_token_still_needs_the_scope(aiohttp_client: AiohttpClient) -> None:
    @scope("c")
    async def handler(request: web.Request) -> web.Response:
        return await whoami(request)

    client = await aiohttp_client(build(handler, cache=Dictionary()))
    statuses = [(await client.get("/stream", headers=bearer("ann"))).status for _ in range(2)]
    assert statuses == [403, 403]


async def test_a_ticket_opens_a_ticketed_route(aiohttp_client: AiohttpClient) -> None:
    @ticketed
    async def handler(request: web.Request) -> web.Response:
        return await whoami(request)

    client = await aiohttp_client(build(handler))
    response = await client.get("/stream?ticket=good")
    assert await response.json() == ["ann", ["a", "b"], 2000]


@pytest.mark.parametrize(
    ("query", "headers", "challenge"),
    [
        ("ticket=bad", {}, INVALID),
        ("ticket=", {}, INVALID),
        ("ticket=ann", {}, INVALID),
        ("ticket=%FF%00", {}, INVALID),
        ("ticket=good&ticket=good", {}, INVALID),
        ("ticket=good", bearer("ann"), INVALID),
        ("ticket=good", bearer("()"), INVALID),
        ("", bearer("good"), INVALID),
        ("Ticket=good", {}, 'Bearer realm="r"'),
    ],
)
async def test_what_is_no_single_good_ticket_is_refused(
    aiohttp_client: AiohttpClient, query: str, headers: dict[str, str], challenge: str
) -> None:
    @ticketed
    async def handler(request: web.Request) -> web.Response:
        return await whoami(request)

    client = await aiohttp_client(build(handler))
    response = await client.get(f"/stream?{query}", headers=headers)
    assert (response.status, response.headers["WWW-Authenticate"]) == (401, challenge)


async def test_a_ticket_is_nothing_on_a_route_without_the_mark(
    aiohttp_client: AiohttpClient,
) -> None:
    client = await aiohttp_client(build(whoami))
    response = await client.get("/stream?ticket=good")
    assert response.headers["WWW-Authenticate"] == 'Bearer realm="r"'
    response = await client.get("/stream?ticket=good", headers=bearer("ann"))
    assert response.status == 200


async def test_a_ticketed_route_takes_a_token_as_well(aiohttp_client: AiohttpClient) -> None:
    @ticketed
    async def handler(request: web.Request) -> web.Response:
        return await whoami(request)

    client = await aiohttp_client(build(handler))
    assert (await client.get("/stream", headers=bearer("bob"))).status == 200


@pytest.mark.parametrize(
    ("headers", "reason"),
    [({}, "missing"), (bearer("x"), "unknown"), (bearer("bob"), "scope"), (bearer("ann"), None)],
)
async def test_the_reason_is_there_for_the_log(
    aiohttp_client: AiohttpClient, headers: dict[str, str], reason: str | None
) -> None:
    seen: list[str | None] = []

    @web.middleware
    async def log(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        finally:
            seen.append(request.get(AUTH_FAILURE))

    @scope("a")
    async def handler(request: web.Request) -> web.Response:
        return await whoami(request)

    app = build(handler)
    app.middlewares.insert(0, log)
    await (await aiohttp_client(app)).get("/stream", headers=headers)
    assert seen == [reason]


async def test_an_http_error_of_the_verifier_passes_through(aiohttp_client: AiohttpClient) -> None:
    async def unready(_: str) -> Mapping[str, object]:
        raise web.HTTPServiceUnavailable(headers={"Retry-After": "1"})

    app = web.Application(middlewares=[jwt_auth(verify=unready, realm="r")])
    app.router.add_get("/", whoami)
    assert (await (await aiohttp_client(app)).get("/", headers=bearer("x"))).status == 503


async def test_a_realm_cannot_break_out_of_its_quotes(aiohttp_client: AiohttpClient) -> None:
    app = web.Application(middlewares=[jwt_auth(verify=verify, realm='a"b\\c\r\nd')])
    app.router.add_get("/", whoami)
    challenge = (await (await aiohttp_client(app)).get("/")).headers["WWW-Authenticate"]
    assert challenge == r'Bearer realm="a\"b\\c\r\nd"'


@pytest.fixture
async def big_headers() -> AsyncIterator[str]:
    runner = web.AppRunner(build(whoami), max_field_size=65_536)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/stream"
    await runner.cleanup()


@pytest.mark.parametrize(("size", "verified"), [(8192, 1), (8193, 0)])
async def test_a_token_over_eight_kibibytes_is_not_even_decoded(
    big_headers: str, size: int, verified: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PAYLOADS, "a" * size, PAYLOADS["ann"])
    async with (
        ClientSession() as session,
        session.get(big_headers, headers=bearer("a" * size)) as r,
    ):
        assert r.status == (200 if verified else 401)
