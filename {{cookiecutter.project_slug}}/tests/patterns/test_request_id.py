from textwrap import dedent

import pytest
from aiohttp import web
from pytest_aiohttp.plugin import AiohttpClient

from {{cookiecutter.package_name}}.patterns import request_id as pattern
from {{cookiecutter.package_name}}.patterns.request_id import (
    current_ids,
    identify,
    ids_of,
    outbound_headers,
    request_id,
    send_request_id,
)

TRACE_ID, SPAN_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


async def show(request: web.Request) -> web.Response:
    seen = {"id": request_id(request), "trace": ids_of(request).trace_id, **current_ids()}
    return web.json_response(seen | {"outbound": dict(outbound_headers())})


def make_app() -> web.Application:
    app = web.Application()
    app.router.add_get("/", show)
    namespace = {"app": app, "send_request_id": send_request_id, "identify": identify}
    exec(dedent((pattern.__doc__ or "").split("Wiring::")[1].split("Needs:")[0]), namespace)  # noqa: S102
    return app


@pytest.mark.parametrize("offered", ["a", "A-1_b.c", "x" * 64])
async def test_keeps_a_well_formed_id_of_the_client(
    aiohttp_client: AiohttpClient, offered: str
) -> None:
    client = await aiohttp_client(make_app())
    async with client.get("/", headers={"X-Request-ID": offered}) as response:
        assert response.headers["X-Request-ID"] == offered
        assert (await response.json())["request_id"] == offered


@pytest.mark.parametrize("offered", ["", "x" * 65, "a b", "a\tb", 'a"b', "a;b", "\u00e9"])
async def test_replaces_an_id_that_could_forge_a_log_line(
    aiohttp_client: AiohttpClient, offered: str
) -> None:
    client = await aiohttp_client(make_app())
    async with client.get("/", headers={"X-Request-ID": offered}) as response:
        fresh = response.headers["X-Request-ID"]
        assert fresh != offered
        assert len(fresh) == 32


async def test_gives_unmatched_routes_an_id_too(aiohttp_client: AiohttpClient) -> None:
    client = await aiohttp_client(make_app())
    async with client.get("/nowhere", headers={"X-Request-ID": "abc"}) as response:
        assert (response.status, response.headers["X-Request-ID"]) == (404, "abc")


async def test_continues_the_trace_of_the_caller_with_a_span_of_its_own(
    aiohttp_client: AiohttpClient,
) -> None:
    client = await aiohttp_client(make_app())
    headers = {"traceparent": f"00-{TRACE_ID}-{SPAN_ID}-01"}
    async with client.get("/", headers=headers) as response:
        version, trace_id, span_id, flags = (await response.json())["outbound"][
            "traceparent"
        ].split("-")
    assert (version, trace_id, flags) == ("00", TRACE_ID, "01")
    assert span_id != SPAN_ID


async def test_continues_a_later_version_as_far_as_it_is_known(
    aiohttp_client: AiohttpClient,
) -> None:
    client = await aiohttp_client(make_app())
    headers = {"traceparent": f"01-{TRACE_ID}-{SPAN_ID}-01-more"}
    async with client.get("/", headers=headers) as response:
        assert (await response.json())["trace"] == TRACE_ID


@pytest.mark.parametrize(
    "bad",
    [
        "garbage",
        f"ff-{TRACE_ID}-{SPAN_ID}-01",
        f"00-{'0' * 32}-{SPAN_ID}-01",
        f"00-{TRACE_ID}-{'0' * 16}-01",
        f"00-{TRACE_ID}-{SPAN_ID}-01-more",
        f"00-{TRACE_ID.upper()}-{SPAN_ID}-01",
    ],
)
async def test_begins_a_trace_when_the_offered_one_is_invalid(
    aiohttp_client: AiohttpClient, bad: str
) -> None:
    client = await aiohttp_client(make_app())
    async with client.get("/", headers={"traceparent": bad}) as response:
        body = await response.json()
    assert len(body["trace"]) == 32
    assert body["trace"] not in bad


async def test_outside_of_a_request_there_is_nothing_to_pass_on() -> None:
    assert outbound_headers() == {}
    assert current_ids() == {}
