import asyncio
from textwrap import dedent

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from pytest_aiohttp.plugin import AiohttpClient

from {{cookiecutter.package_name}}.patterns import rate_limit as pattern
from {{cookiecutter.package_name}}.patterns.rate_limit import RateLimit, client_network, rate_limit


class Clock:
    """A clock that stands until it is set."""

    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


async def ok(request: web.Request) -> web.Response:
    return web.Response(text="ok")


def asked_key(request: web.Request) -> str | None:
    return request.headers.get("X-Key")


def test_a_burst_up_to_the_limit_is_taken_and_no_more() -> None:
    limit = RateLimit(3, per=60, now=Clock())
    assert [limit.take("a") for _ in range(4)] == [0, 0, 0, pytest.approx(20)]
    assert limit.refused == 1


def test_the_allowance_comes_back_evenly_and_never_grows_above_the_limit() -> None:
    clock = Clock()
    limit = RateLimit(3, per=60, now=clock)
    for _ in range(3):
        assert limit.take("a") == 0
    clock.time += 20
    assert limit.take("a") == 0
    assert limit.take("a") == pytest.approx(20)
    clock.time += 3600
    assert [limit.take("a") for _ in range(4)] == [0, 0, 0, pytest.approx(20)]


def test_over_a_long_time_the_rate_is_held_exactly() -> None:
    clock = Clock()
    limit = RateLimit(10, per=1, now=clock)
    taken = 0
    for _ in range(10_000):
        taken += limit.take("a") == 0
        clock.time += 0.001
    assert taken in {109, 110}  # 10 at once, and 10 in each of the 10 seconds


def test_one_key_does_not_pay_for_another() -> None:
    limit = RateLimit(1, per=60, now=Clock())
    assert [limit.take("a"), limit.take("b")] == [0, 0]
    assert limit.take("a") > 0


def test_a_refused_request_does_not_prolong_the_wait() -> None:
    clock = Clock()
    limit = RateLimit(1, per=10, now=clock)
    limit.take("a")
    for _ in range(100):
        assert limit.take("a") > 0
    clock.time += 10
    assert limit.take("a") == 0


def test_a_flood_of_keys_is_remembered_only_up_to_the_bound() -> None:
    limit = RateLimit(1, per=60, max_keys=10, now=Clock())
    for number in range(1000):
        assert limit.take(str(number)) == 0
        limit.take("999999")
    assert len(limit) == 10


def test_the_key_admitted_longest_ago_is_forgotten_first() -> None:
    limit = RateLimit(2, per=60, max_keys=2, now=Clock())
    for key in ("old", "other", "old", "new"):
        assert limit.take(key) == 0
    assert limit.take("old") > 0
    assert limit.take("new") == 0
    assert limit.take("new") > 0
    assert [limit.take("other"), limit.take("other")] == [0, 0]


@pytest.mark.parametrize(("requests", "per", "keys"), [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_a_limit_that_makes_no_sense_is_refused(requests: int, per: float, keys: int) -> None:
    with pytest.raises(ValueError, match="at least one request"):
        RateLimit(requests, per=per, max_keys=keys)


async def test_above_the_limit_the_answer_says_when_to_come_back(
    aiohttp_client: AiohttpClient,
) -> None:
    limit = RateLimit(2, per=61, now=Clock())
    app = web.Application(middlewares=[rate_limit(limit, key=asked_key)])
    app.router.add_get("/", ok)
    client = await aiohttp_client(app)
    found = []
    for _ in range(3):
        async with client.get("/", headers={"X-Key": "a"}) as response:
            found.append((response.status, response.headers.get("Retry-After")))
    assert found == [(200, None), (200, None), (429, "31")]


async def test_what_has_no_key_is_not_limited(aiohttp_client: AiohttpClient) -> None:
    app = web.Application(middlewares=[rate_limit(RateLimit(1, per=60), key=asked_key)])
    app.router.add_get("/", ok)
    client = await aiohttp_client(app)
    for _ in range(3):
        async with client.get("/") as response:
            assert response.status == 200


async def test_requests_that_come_together_do_not_slip_through(
    aiohttp_client: AiohttpClient,
) -> None:
    limit = RateLimit(5, per=60)
    app = web.Application(middlewares=[rate_limit(limit, key=lambda request: "all")])
    app.router.add_get("/", ok)
    client = await aiohttp_client(app)

    async def status() -> int:
        async with client.get("/") as response:
            return response.status

    statuses = await asyncio.gather(*(status() for _ in range(20)))
    assert sorted(statuses) == [200] * 5 + [429] * 15


@pytest.mark.parametrize(
    ("remote", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_a_client_is_an_address_or_a_whole_network_of_ipv6(remote: str, network: str) -> None:
    assert client_network(make_mocked_request("GET", "/").clone(remote=remote)) == network


async def test_the_wiring_of_the_docstring_works(aiohttp_client: AiohttpClient) -> None:
    app = web.Application()
    names: dict[str, object] = {"app": app, **vars(pattern)}
    exec(dedent((pattern.__doc__ or "").split("Wiring::")[1].split("Needs:")[0]), names)  # noqa: S102
    app.router.add_get("/", ok)
    client = await aiohttp_client(app)
    statuses = []
    for _ in range(101):
        async with client.get("/") as response:
            statuses.append(response.status)
    assert statuses == [200] * 100 + [429]
