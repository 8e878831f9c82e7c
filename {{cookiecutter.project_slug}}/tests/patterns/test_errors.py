import asyncio
from collections.abc import Awaitable, Callable
from textwrap import dedent
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from pytest_aiohttp.plugin import AiohttpClient

from {{cookiecutter.package_name}}.patterns import errors as pattern
from {{cookiecutter.package_name}}.patterns.errors import errors, note_started

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def make_app(handler: Handler) -> web.Application:
    app = web.Application()
    app.router.add_get("/thing", handler)
    app.on_response_prepare.append(note_started)
    app.middlewares.append(errors(request_id=lambda _: "r1"))
    return app


def raising(error: BaseException) -> Handler:
    async def handler(request: web.Request) -> web.Response:
        raise error

    return handler


async def problem(client: Any, path: str = "/thing") -> tuple[Any, Any]:
    async with client.get(path) as response:
        assert response.content_type == "application/problem+json"
        return response, await response.json()


async def test_an_http_error_becomes_a_problem(aiohttp_client: AiohttpClient) -> None:
    client = await aiohttp_client(make_app(raising(web.HTTPConflict(text="already taken"))))
    response, body = await problem(client, "/thing?q=1")
    assert response.status == 409
    assert body == {
        "type": "about:blank",
        "title": "Conflict",
        "status": 409,
        "detail": "already taken",
        "instance": "/thing",
        "request_id": "r1",
    }


async def test_an_unmatched_route_is_a_problem_without_aiohttps_wording(
    aiohttp_client: AiohttpClient,
) -> None:
    client = await aiohttp_client(make_app(raising(web.HTTPConflict())))
    _, body = await problem(client, "/nowhere")
    assert (body["status"], body["detail"]) == (404, "Not Found")


async def test_headers_of_the_error_survive(aiohttp_client: AiohttpClient) -> None:
    client = await aiohttp_client(make_app(raising(web.HTTPConflict())))
    async with client.post("/thing") as response:
        assert response.status == 405
        assert response.headers["Allow"] == "GET,HEAD"


async def test_members_that_the_error_carries_are_merged(aiohttp_client: AiohttpClient) -> None:
    error = web.HTTPUnprocessableEntity()
    error.problem = {"errors": [{"loc": ["a"]}], "type": "/p/invalid"}  # type: ignore[attr-defined]  # by design
    client = await aiohttp_client(make_app(raising(error)))
    _, body = await problem(client)
    assert (body["errors"], body["type"]) == ([{"loc": ["a"]}], "/p/invalid")


async def test_a_redirect_passes_untouched(aiohttp_client: AiohttpClient) -> None:
    client = await aiohttp_client(make_app(raising(web.HTTPFound("/there"))))
    async with client.get("/thing", allow_redirects=False) as response:
        assert (response.status, response.headers["Location"]) == (302, "/there")


async def test_an_unhandled_error_is_opaque_outside_and_whole_in_the_log(
    aiohttp_client: AiohttpClient, caplog: pytest.LogCaptureFixture
) -> None:
    client = await aiohttp_client(make_app(raising(RuntimeError("password is hunter2"))))
    response, body = await problem(client)
    assert response.status == 500
    assert "hunter2" not in str(body)
    assert caplog.records[0].exc_info is not None
    assert "/thing" in caplog.text


async def test_a_timeout_that_escapes_is_a_500_with_a_body(aiohttp_client: AiohttpClient) -> None:
    client = await aiohttp_client(make_app(raising(TimeoutError())))
    _, body = await problem(client)
    assert body["status"] == 500


@pytest.mark.filterwarnings("ignore:returning HTTPException:DeprecationWarning")
async def test_a_returned_http_error_is_treated_as_raised(aiohttp_client: AiohttpClient) -> None:
    async def returns(request: web.Request) -> web.Response:
        return web.HTTPGone(text="it was removed")

    client = await aiohttp_client(make_app(returns))
    _, body = await problem(client)
    assert (body["status"], body["detail"]) == (410, "it was removed")


async def test_an_answer_of_a_handler_passes(aiohttp_client: AiohttpClient) -> None:
    async def fine(request: web.Request) -> web.Response:
        return web.Response(text="fine")

    client = await aiohttp_client(make_app(fine))
    async with client.get("/thing") as response:
        assert await response.text() == "fine"


async def test_a_status_without_a_name_is_a_problem_too(aiohttp_client: AiohttpClient) -> None:
    class Odd(web.HTTPClientError):
        status_code = 499

    client = await aiohttp_client(make_app(raising(Odd(reason="odd"))))
    _, body = await problem(client)
    assert (body["status"], body["title"]) == (499, "Error")


@pytest.mark.parametrize("error", [RuntimeError("late"), web.HTTPNotFound(), web.HTTPFound("/x")])
async def test_an_error_after_the_answer_began_cuts_it_off(
    aiohttp_client: AiohttpClient, error: Exception
) -> None:
    async def late(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"begun")
        raise error

    client = await aiohttp_client(make_app(late))
    async with client.get("/thing") as response:
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()


async def status_when_the_client_leaves(app: web.Application) -> int:
    """Leave in the middle of a request, as production sees it: no `handler_cancellation`."""
    statuses: asyncio.Queue[int] = asyncio.Queue()

    @web.middleware
    async def outer(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        statuses.put_nowait(response.status)
        return response

    app.middlewares.insert(0, outer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        _, writer = await asyncio.open_connection(*runner.addresses[0])
        writer.write(b"GET /thing HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(5):
            await app[ENTERED].wait()
            writer.transport.abort()
            return await statuses.get()
    finally:
        await runner.cleanup()


ENTERED = web.AppKey("entered", asyncio.Event)


@pytest.mark.parametrize(("begins", "status"), [(True, 200), (False, 499)])
async def test_a_client_that_leaves_is_not_an_error(
    caplog: pytest.LogCaptureFixture, *, begins: bool, status: int
) -> None:
    async def writes(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        if begins:
            await response.prepare(request)
        request.app[ENTERED].set()
        while request.transport is not None:  # noqa: ASYNC110 - there is no event for this
            await asyncio.sleep(0)
        raise ConnectionResetError

    app = make_app(writes)
    app[ENTERED] = asyncio.Event()
    assert await status_when_the_client_leaves(app) == status
    assert caplog.records == []


async def test_an_error_after_the_client_left_finds_nobody_to_cut_off(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def late(request: web.Request) -> web.StreamResponse:
        await web.StreamResponse().prepare(request)
        request.app[ENTERED].set()
        while request.transport is not None:  # noqa: ASYNC110 - there is no event for this
            await asyncio.sleep(0)
        raise RuntimeError

    app = make_app(late)
    app[ENTERED] = asyncio.Event()
    assert await status_when_the_client_leaves(app) == 200
    assert [record.message for record in caplog.records] == ["unhandled error in GET /thing"]


async def test_a_reset_of_another_connection_is_an_error_of_ours(
    aiohttp_client: AiohttpClient,
) -> None:
    client = await aiohttp_client(make_app(raising(ConnectionResetError("database"))))
    _, body = await problem(client)
    assert body["status"] == 500


async def test_an_error_that_asks_to_close_the_connection_is_heard(
    aiohttp_client: AiohttpClient,
) -> None:
    error = web.HTTPRequestTimeout()
    error.force_close()
    client = await aiohttp_client(make_app(raising(error)))
    response, _ = await problem(client)
    assert response.headers["Connection"] == "close"


async def test_the_wiring_in_the_docstring_works(aiohttp_client: AiohttpClient) -> None:
    app = web.Application()
    wiring = (pattern.__doc__ or "").split("Wiring::")[1].split("Needs:")[0]
    exec(dedent(wiring), {"app": app, "errors": errors, "note_started": note_started})  # noqa: S102
    _, body = await problem(await aiohttp_client(app), "/nowhere")
    assert "request_id" not in body
