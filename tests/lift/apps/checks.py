"""What the patterns promise holds in an application of this shape, over real connections."""

import asyncio
import importlib
import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
import jwt
import pytest
from aiohttp import web

NAME = os.environ["APPLICATION"]
wired = importlib.import_module(f"{NAME}.wired")
drain = importlib.import_module(f"{NAME}.patterns.drain")
SECRET = os.urandom(32)
PREFIX: str = wired.PREFIX


@dataclass
class Running:
    """The application, served as in production."""

    client: aiohttp.ClientSession
    drain: "drain.Drain"  # type: ignore[name-defined]  # imported by its name
    task: asyncio.Task[None]
    gate: asyncio.Event
    log: list[bytes]
    upstream: list[web.Request] = field(default_factory=list)


def token(scopes: str = "") -> dict[str, str]:
    now = int(time.time())
    claims = {"sub": "ann", "iss": "issuer", "aud": "notes", "iat": now, "exp": now + 60}
    signed = jwt.encode(claims | ({"scope": scopes} if scopes else {}), SECRET, "HS256")
    return {"Authorization": f"Bearer {signed}"}


@asynccontextmanager
async def another_service(seen: list[web.Request]) -> AsyncIterator[str]:
    async def answer(request: web.Request) -> web.Response:
        seen.append(request)
        return web.Response(text="from upstream")

    app = web.Application()
    app.router.add_get("/", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    yield f"http://{host}:{port}/"
    await runner.cleanup()


@pytest.fixture
async def app() -> AsyncIterator[Running]:
    seen: list[web.Request] = []
    log: list[bytes] = []
    gate = asyncio.Event()
    listening: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    async with another_service(seen) as url:
        application, drained = wired.create_app(gate, log.append, SECRET, url)
        listen = drain.Listen(port=0, options={"access_log": None})
        task = asyncio.create_task(
            drained.serve(
                application, listen, on_listening=lambda urls: listening.set_result(urls[0])
            )
        )
        async with aiohttp.ClientSession(await listening) as client:
            yield Running(client, drained, task, gate, log, seen)
            gate.set()
            drained.stop()
            await task


async def test_a_marked_route_of_the_old_application_is_public_and_all_others_are_not(
    app: Running,
) -> None:
    async with app.client.get(f"{PREFIX}/notes") as answer:
        assert (answer.status, await answer.json()) == (200, ["mine", "yours"])
    for path in ("/mine", "/slow", "/broken", "/upstream", "/news", "/chat"):
        async with app.client.get(PREFIX + path) as answer:
            assert answer.status == 401, path
            assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    async with app.client.get(f"{PREFIX}/mine", headers=token()) as answer:
        assert await answer.json() == ["mine"]


async def test_every_error_has_one_shape_one_id_and_no_secret(app: Running) -> None:
    path = f"{PREFIX}/broken"
    async with app.client.get(path, headers={**token(), "X-Request-ID": "one"}) as answer:
        problem = await answer.json(content_type="application/problem+json")
        assert answer.headers["X-Request-ID"] == "one"
    assert problem == {
        "type": "about:blank",
        "title": "Internal Server Error",
        "status": 500,
        "detail": "Internal Server Error",
        "instance": path,
        "request_id": "one",
    }


async def test_every_request_has_a_line(app: Running) -> None:
    async with app.client.get(f"{PREFIX}/notes", headers={"X-Request-ID": "two"}):
        pass
    async with app.client.get(f"{PREFIX}/nowhere", headers=token()):
        pass
    lines = [json.loads(line) for line in app.log]
    assert [line["status"] for line in lines] == [200, 404]
    assert (lines[0]["route"], lines[0]["request_id"]) == (f"{PREFIX}/notes", "two")


async def test_a_typed_handler_takes_what_it_is_annotated_to_take(app: Running) -> None:
    path, writer = f"{PREFIX}/notes", token("notes:write")
    async with app.client.post(path, json={"text": "new"}, headers=writer) as answer:
        assert (answer.status, await answer.json()) == (201, {"text": "new"})
    async with app.client.get(path) as answer:
        assert (await answer.json())[-1] == "ann: new"
    async with app.client.post(path, json={"text": 7}, headers=writer) as answer:
        problem = await answer.json(content_type="application/problem+json")
        assert (answer.status, problem["errors"][0]["loc"]) == (422, ["body", "text"])
    async with app.client.post(path, json={"text": "new"}, headers=token()) as answer:
        assert answer.status == 403


async def test_above_the_limit_requests_are_refused_at_once(app: Running) -> None:
    async def slow() -> int:
        async with app.client.get(f"{PREFIX}/slow", headers=token()) as answer:
            return answer.status

    waiting = [asyncio.create_task(slow()) for _ in range(2)]
    async with asyncio.timeout(5):
        while app.drain.in_flight < 2:
            await asyncio.sleep(0)
    async with app.client.get(f"{PREFIX}/notes") as answer:
        assert (answer.status, "Retry-After" in answer.headers) == (503, True)
    app.gate.set()
    assert await asyncio.gather(*waiting) == [200, 200]
    async with app.client.get(f"{PREFIX}/notes") as answer:
        assert answer.status == 200


async def test_the_session_is_shared_and_carries_the_request_id(app: Running) -> None:
    headers = {**token(), "X-Request-ID": "three"}
    async with app.client.get(f"{PREFIX}/upstream", headers=headers) as answer:
        assert await answer.text() == "from upstream"
    assert app.upstream[0].headers["X-Request-ID"] == "three"


async def test_streams_and_requests_end_well_when_the_process_is_told_to(app: Running) -> None:
    async with (
        app.client.get(f"{PREFIX}/news", headers=token()) as news,
        app.client.ws_connect(f"{PREFIX}/chat", headers=token()) as chat,
    ):
        await chat.send_str("hello")
        assert await chat.receive_str() == "hello"
        slow = asyncio.create_task(app.client.get(f"{PREFIX}/slow", headers=token()).__aenter__())
        async with asyncio.timeout(5):
            while app.drain.in_flight < 3:
                await asyncio.sleep(0)
        app.drain.stop()
        assert (await chat.receive()).data == 1001
        assert b"data: first" in await news.read()
        app.gate.set()
        async with await slow as answer:
            assert (answer.status, await answer.text()) == (200, "done")
    async with asyncio.timeout(5):
        await app.task
