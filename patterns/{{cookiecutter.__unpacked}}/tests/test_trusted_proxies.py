from textwrap import dedent
from typing import Literal

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from aiohttp.typedefs import Handler, Middleware
from pytest_aiohttp.plugin import AiohttpClient

from {{cookiecutter.package_name}}.patterns import trusted_proxies as pattern
from {{cookiecutter.package_name}}.patterns.trusted_proxies import trusted_proxies

Headers = list[tuple[str, str]]
TRUSTED = ["10.0.0.0/8", "fd00::/8"]
PROXY, CLIENT = "10.0.0.1", "192.0.2.7"


async def seen(believe: Middleware, headers: Headers, peer: str = PROXY) -> tuple[str, str, str]:
    """What a handler sees of a request from `peer`."""
    found: list[web.Request] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        found.append(request)
        return web.Response()

    request = make_mocked_request("GET", "/").clone(
        headers=[("Host", "service"), *headers], remote=peer
    )
    await believe(request, handler)
    return found[0].remote or "", found[0].scheme, found[0].host


def for_(*values: str) -> Headers:
    return [("X-Forwarded-For", value) for value in values]


@pytest.mark.parametrize(
    ("headers", "remote"),
    [
        ([], PROXY),
        (for_(""), PROXY),
        (for_(CLIENT), CLIENT),
        (for_(f"203.0.113.66, {CLIENT}"), CLIENT),
        (for_("203.0.113.66", CLIENT), CLIENT),
        (for_(f"lies, {CLIENT}, 10.0.0.2"), CLIENT),
        (for_("10.0.0.3, 10.0.0.2"), "10.0.0.3"),
        (for_(f"{CLIENT}:4711"), CLIENT),
        (for_("2001:db8::7"), "2001:db8::7"),
        (for_("[2001:db8::7]:4711"), "2001:db8::7"),
        (for_("2001:db8::7, fd00::1"), "2001:db8::7"),
        (for_("::ffff:192.0.2.7"), CLIENT),
    ],
)
async def test_the_client_is_the_rightmost_address_that_is_no_proxy_of_ours(
    headers: Headers, remote: str
) -> None:
    assert await seen(trusted_proxies(TRUSTED), headers) == (remote, "http", "service")


@pytest.mark.parametrize("peer", ["192.0.2.66", "2001:db8::66", ""])
async def test_from_anybody_else_the_headers_mean_nothing(peer: str) -> None:
    headers = [*for_("127.0.0.1"), ("X-Forwarded-Proto", "https"), ("X-Forwarded-Host", "bank")]
    believe = trusted_proxies(TRUSTED, host=True)
    assert await seen(believe, headers, peer) == (peer, "http", "service")


async def test_a_peer_seen_through_a_socket_for_both_families_is_known() -> None:
    assert (await seen(trusted_proxies(TRUSTED), for_(CLIENT), "::ffff:10.0.0.1"))[0] == CLIENT


async def test_a_unix_socket_is_trusted_by_name() -> None:
    assert (await seen(trusted_proxies(["unix"]), for_(CLIENT), ""))[0] == CLIENT


@pytest.mark.parametrize(
    ("addresses", "schemes", "scheme"),
    [
        (CLIENT, "https", "https"),
        (CLIENT, "HTTPS", "https"),
        (CLIENT, "http, https", "https"),
        (f"{CLIENT}, 10.0.0.2", "https", "https"),
        (f"{CLIENT}, 10.0.0.2", "https, http", "https"),
        (f"1.1.1.1, {CLIENT}, 10.0.0.2", "http, https, http", "https"),
    ],
)
async def test_the_scheme_is_what_the_proxy_nearest_to_the_client_wrote(
    addresses: str, schemes: str, scheme: str
) -> None:
    headers = [*for_(addresses), ("X-Forwarded-Proto", schemes)]
    assert await seen(trusted_proxies(TRUSTED), headers) == (CLIENT, scheme, "service")


@pytest.mark.parametrize(("host", "seen_host"), [(False, "service"), (True, "shop.example:8443")])
async def test_the_host_is_believed_only_when_asked_for(host: bool, seen_host: str) -> None:
    headers = [*for_(CLIENT), ("X-Forwarded-Host", "shop.example:8443")]
    assert await seen(trusted_proxies(TRUSTED, host=host), headers) == (CLIENT, "http", seen_host)


@pytest.mark.parametrize(
    "headers",
    [
        for_("unknown"),
        for_(f"{CLIENT},"),
        for_("10.0.0.300"),
        for_("[::1"),
        [*for_(CLIENT), ("X-Forwarded-Proto", "javascript")],
        [*for_(CLIENT), ("X-Forwarded-Host", "evil/../")],
    ],
)
async def test_what_a_proxy_of_ours_cannot_have_meant_is_refused(headers: Headers) -> None:
    with pytest.raises(web.HTTPBadRequest) as refused:
        await seen(trusted_proxies(TRUSTED, host=True), headers)
    assert refused.value.text == "The headers of the proxy cannot be understood."


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", (PROXY, "http", "service")),
        ("for=192.0.2.7", (CLIENT, "http", "service")),
        ("For=192.0.2.7;Proto=HTTPS;by=10.0.0.1", (CLIENT, "https", "service")),
        ('for="192.0.2.7:4711"; host="shop.example"', (CLIENT, "http", "shop.example")),
        ('for="[2001:db8::7]:4711"', ("2001:db8::7", "http", "service")),
        (f"for=1.1.1.1;proto=http, for={CLIENT};proto=https, for=10.0.0.2;proto=http",
         (CLIENT, "https", "service")),
        (r'for="192.0.2\.7"', (CLIENT, "http", "service")),
    ],
)  # fmt: skip
async def test_the_standard_header_is_read_the_same_way(
    header: str, expected: tuple[str, str, str]
) -> None:
    believe = trusted_proxies(TRUSTED, header="Forwarded", host=True)
    headers = [("Forwarded", header), *for_("203.0.113.66")]
    assert await seen(believe, headers) == expected


@pytest.mark.parametrize(
    "header",
    [
        "for",
        "for=unknown",
        "for=_hidden",
        "proto=https",
        "for=192.0.2.7;for=127.0.0.1",
        'for="192.0.2.7',
        'for="127.0.0.1, for=192.0.2.7',  # a quote that would swallow what the proxy added
        'for="a, for="[2001:db8::7]"',
        'for="x\\, for="[2001:db8::7]"',
        "for=192.0.2.7 for=127.0.0.1",
    ],
)
async def test_a_malformed_standard_header_is_refused(header: str) -> None:
    with pytest.raises(web.HTTPBadRequest):
        await seen(trusted_proxies(TRUSTED, header="Forwarded"), [("Forwarded", header)])


@pytest.mark.parametrize("network", ["10.0.0.1/8", "example.org", "*"])
def test_what_is_no_network_is_refused_at_start(network: str) -> None:
    with pytest.raises(ValueError, match=r"network|host bits"):
        trusted_proxies([network])


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded"])
async def test_what_handlers_note_on_the_request_is_seen_by_on_response_prepare(
    aiohttp_client: AiohttpClient, header: Literal["X-Forwarded-For", "Forwarded"]
) -> None:
    key = web.RequestKey("note", str)

    @web.middleware
    async def noting(request: web.Request, handler: Handler) -> web.StreamResponse:
        request[key] = "noted"
        return await handler(request)

    async def handler(request: web.Request) -> web.Response:
        return web.Response(text=f"{request.url} {request.remote} {await request.text()}")

    async def prepared(request: web.Request, response: web.StreamResponse) -> None:
        response.headers["X-Note"] = request.get(key, "missing")

    app = web.Application(middlewares=[trusted_proxies(["127.0.0.0/8"], header=header), noting])
    app.router.add_post("/path", handler)
    app.on_response_prepare.append(prepared)
    client = await aiohttp_client(app)
    headers = {
        "X-Forwarded-For": CLIENT,
        "X-Forwarded-Proto": "https",
        "Forwarded": f"for={CLIENT};proto=https",
        "Host": "shop.example",
    }
    async with client.post("/path", headers=headers, data=b"body") as response:
        assert await response.text() == f"https://shop.example/path {CLIENT} body"
        assert response.headers["X-Note"] == "noted"


async def test_the_wiring_of_the_docstring_works() -> None:
    app = web.Application()
    names: dict[str, object] = {"app": app, "trusted_proxies": trusted_proxies}
    exec(dedent((pattern.__doc__ or "").split("Wiring::")[1].split("Needs:")[0]), names)  # noqa: S102
    assert (await seen(app.middlewares[0], for_(CLIENT)))[0] == CLIENT
