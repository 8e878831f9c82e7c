"""For each snippet that circulates a check that it fails, and the pattern wired for that check.

A check says in one sentence what went wrong; the page of the pattern shows that sentence.
"""

# mypy: ignore-errors
# What is loaded by its path has no types.

import asyncio
import gzip
import importlib.util
import io
import json
import logging
import socket
import sys
import tempfile
import threading
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import date
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType

import aiohttp
import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import rsa
from prometheus_client import CollectorRegistry
from pydantic import BaseModel

ROOT = Path(__file__).resolve().parents[2]
SHELF = ROOT / "patterns" / "{{cookiecutter.__unpacked}}" / "src"
SNIPPETS = ROOT / "docs" / "patterns" / "wrong"


@dataclass(frozen=True)
class Case:
    """A page's check; `wrong` and `right` each make what it is run against."""

    page: str
    check: Callable[..., Coroutine[object, object, None]]
    wrong: Callable[[], object]
    right: Callable[[], object]


CASES: list[Case] = []


def case(page, *, wrong, right):
    def register(check):
        CASES.append(Case(page, check, wrong, right))
        return check

    return register


def load(folder: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{folder.name}_{name}", folder / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def snippet(name: str) -> ModuleType:
    return load(SNIPPETS, name)


def pattern(name: str) -> ModuleType:
    return load(SHELF, name)


def expect(holds: object, sentence: str) -> None:
    """Fail with the sentence alone, which pytest would otherwise decorate."""
    if not holds:
        raise AssertionError(sentence)


def app_with(*middlewares, routes=(), prepare=()) -> web.Application:
    app = web.Application(middlewares=middlewares)
    for method, path, handler in routes:
        app.router.add_route(method, path, handler)
    app.on_response_prepare.extend(prepare)
    return app


@asynccontextmanager
async def serving(app: web.Application, **options) -> AsyncIterator[str]:
    """A real server with production's settings, which the test server does not have."""
    runner = web.AppRunner(app, shutdown_timeout=0.01, **options)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}"
    finally:
        with suppress(TimeoutError):
            async with asyncio.timeout(2):
                await runner.cleanup()


async def ask(method: str, url: str, **how) -> tuple[int, str, dict[str, str]]:
    async with aiohttp.request(method, url, **how) as response:
        return response.status, await response.text(), dict(response.headers)


async def raw(url: str, data: bytes, *, small: bool = False) -> socket.socket:
    """A connection that has sent `data`; with `small` it has next to no room for an answer."""
    host, port = url.removeprefix("http://").split(":")
    sock = socket.socket()
    if small:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, (host, int(port)))
    await asyncio.get_running_loop().sock_sendall(sock, data)
    return sock


HANDSHAKE = (
    b"GET %s HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


async def ok(request: web.Request) -> web.Response:
    return web.Response(text="ok")


async def fail(request: web.Request) -> web.Response:
    raise RuntimeError("connection to db.internal failed, password=hunter2")


# --- websocket_hub -------------------------------------------------------------------------------


def wrong_hub():
    module = snippet("websocket_hub")
    app = module.create_app()
    return app, lambda text: module.broadcast(app, text)


def right_hub():
    hub = pattern("websocket_hub").Hub()
    clients = set()

    @asynccontextmanager
    async def source(send):
        clients.add(send)
        try:
            yield
        finally:
            clients.discard(send)

    async def on_text(client, text):
        pass

    async def broadcast(text):
        for send in clients:
            send(text.encode())
        await asyncio.sleep(0)

    async def chat(request):
        return await hub.serve(request, source, on_text)

    return app_with(routes=[("GET", "/chat", chat)]), broadcast


@case("websocket_hub", wrong=wrong_hub, right=right_hub)
async def one_client_that_reads_nothing_delays_no_other(subject):
    app, broadcast = subject
    async with serving(app) as url, aiohttp.ClientSession() as session:
        stalled = await raw(url, HANDSHAKE % b"/chat", small=True)
        async with session.ws_connect(f"{url}/chat") as reading:

            async def publish():
                for _ in range(200):
                    await broadcast("x" * 50_000)

            publishing = asyncio.create_task(publish())
            received = 0
            with suppress(TimeoutError):
                async with asyncio.timeout(1.5):
                    while received < 200:
                        await reading.receive_str()
                        received += 1
            publishing.cancel()
            stalled.close()
    expect(received == 200, "a client that reads missed messages because another one does not read")


# --- drain ---------------------------------------------------------------------------------------


def wrong_drain():
    app = snippet("drain").create_app()

    async def serve(listening, stop):
        runner = web.AppRunner(app, shutdown_timeout=0.2)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        listening(f"http://{host}:{port}")
        await stop.wait()
        await runner.cleanup()

    return serve


def right_drain():
    module, hub = pattern("drain"), pattern("websocket_hub").Hub()

    @asynccontextmanager
    async def ticks(send):
        async def tick():
            while True:
                send(b"tick " * 20_000)
                await asyncio.sleep(0)

        ticking = asyncio.create_task(tick())
        try:
            yield
        finally:
            ticking.cancel()

    async def on_text(client, text):
        pass

    async def ticker(request):
        return await hub.serve(request, ticks, on_text)

    async def serve(listening, stop):
        drain = module.Drain(delay=0, timeout=0.4, streams=[hub.drain])
        app = app_with(drain.count, routes=[("GET", "/ticker", ticker)])
        listen = module.Listen(port=0)
        serving_ = asyncio.create_task(
            drain.serve(app, listen, on_listening=lambda urls: listening(urls[0].rstrip("/")))
        )
        await stop.wait()
        drain.stop()
        await serving_

    return serve


@case("drain", wrong=wrong_drain, right=right_drain)
async def clients_that_do_not_read_do_not_hold_the_shutdown(serve):
    url, stop = asyncio.get_running_loop().create_future(), asyncio.Event()
    server = asyncio.create_task(serve(url.set_result, stop))
    clients = [await raw(await url, HANDSHAKE % b"/ticker", small=True) for _ in range(4)]
    await asyncio.sleep(0.3)  # until what lies between the two is full
    stop.set()
    done, _ = await asyncio.wait({server}, timeout=2)
    for client in clients:
        client.close()
    server.cancel()
    await asyncio.wait({server})
    expect(done, "2 seconds after the signal the service is still there, held by 4 clients")


# --- errors --------------------------------------------------------------------------------------


async def broken_stream(request):
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b"first")
    raise RuntimeError("no more rows")


ERROR_ROUTES = [("GET", "/", fail), ("GET", "/stream", broken_stream)]


def wrong_errors():
    return app_with(snippet("errors").error_middleware, routes=ERROR_ROUTES)


def right_errors():
    module = pattern("errors")
    return app_with(module.errors(), routes=ERROR_ROUTES, prepare=[module.note_started])


@case("errors", wrong=wrong_errors, right=right_errors)
async def a_client_learns_nothing_of_the_inside(app):
    async with serving(app) as url:
        _, text, _ = await ask("GET", url)
    expect("hunter2" not in text, f"the client was told: {text}")


@case("errors", wrong=wrong_errors, right=right_errors)
async def a_405_still_says_what_is_allowed(app):
    async with serving(app) as url:
        status, _, headers = await ask("POST", url)
    expect("Allow" in headers, f"the {status} has no Allow header")


@case("errors", wrong=wrong_errors, right=right_errors)
async def nothing_is_written_into_an_answer_that_has_begun(app):
    async with serving(app) as url:
        client = await raw(url, b"GET /stream HTTP/1.0\r\nHost: x\r\n\r\n")
        received = b""
        with suppress(ConnectionResetError):
            while chunk := await asyncio.get_running_loop().sock_recv(client, 65536):
                received += chunk
        client.close()
    body = received.partition(b"\r\n\r\n")[2]
    expect(b"HTTP/1" not in body, f"in the body of the stream: {body[5:30]!r}")


# --- client_session ------------------------------------------------------------------------------


def wrong_session():
    module = snippet("client_session")
    app = app_with(routes=[("GET", "/", module.rate)])
    return app, lambda url: app.__setitem__(module.UPSTREAM, url)


def right_session():
    module, found = pattern("client_session"), []

    async def rate(request):
        async with request.app[module.SESSION].get(found[0]) as response:
            return web.json_response(await response.json())

    app = app_with(routes=[("GET", "/", rate)])
    app.cleanup_ctx.append(module.client_session(module.ClientLimits()))
    return app, found.append


@case("client_session", wrong=wrong_session, right=right_session)
async def calls_share_connections(subject):
    app, set_upstream = subject
    peers = set()

    async def upstream(request):
        peers.add(request.transport.get_extra_info("peername"))
        return web.json_response({"rate": 1})

    async with serving(app_with(routes=[("GET", "/", upstream)])) as upstream_url:
        set_upstream(upstream_url)
        async with serving(app) as url:
            for _ in range(20):
                await ask("GET", url)
    expect(len(peers) == 1, f"20 calls one after another opened {len(peers)} connections")


# --- backpressure --------------------------------------------------------------------------------


async def open_stream(request):
    response = web.StreamResponse()
    await response.prepare(request)
    await asyncio.Event().wait()


def wrong_backpressure():
    return app_with(
        snippet("backpressure").limit, routes=[("GET", "/", ok), ("GET", "/stream", open_stream)]
    )


def right_backpressure():
    module = pattern("backpressure")

    @module.stream
    async def stream(request):
        return await open_stream(request)

    guard = module.backpressure(module.Permits(module.FixedLimit(2)))
    return app_with(guard, routes=[("GET", "/", ok), ("GET", "/stream", stream)])


@case("backpressure", wrong=wrong_backpressure, right=right_backpressure)
async def idle_streams_take_no_request_s_place(app):
    async with serving(app) as url, aiohttp.ClientSession() as session:
        streams = [await session.get(f"{url}/stream") for _ in range(2)]
        async with session.get(url) as response:
            status = response.status
        for stream in streams:
            stream.close()
    expect(status == 200, f"beside two idle streams a request is answered {status}")


# --- jwt_auth, jwt_verify ------------------------------------------------------------------------

SECRET = "a secret of thirty-two bytes, or more"  # noqa: S105


def wrong_auth():
    return app_with(
        snippet("jwt_auth").auth, routes=[("GET", "/health", ok), ("GET", "/healthz-admin", ok)]
    )


def right_auth():
    module = pattern("jwt_auth")

    async def verify(token):
        raise ValueError("no token is good here")

    @module.public
    async def health(request):
        return await ok(request)

    return app_with(
        module.jwt_auth(verify=verify, realm="x"),
        routes=[("GET", "/health", health), ("GET", "/healthz-admin", ok)],
    )


@case("jwt_auth", wrong=wrong_auth, right=right_auth)
async def only_what_is_marked_is_public(app):
    async with serving(app) as url:
        status, _, _ = await ask("GET", f"{url}/healthz-admin")
    expect(status == 401, f"/healthz-admin without a token is answered {status}")


@case("jwt_auth", wrong=wrong_auth, right=right_auth)
async def a_bad_token_is_a_401_with_a_challenge(app):
    async with serving(app) as url:
        headers = {"Authorization": "bearer nonsense"}
        status, _, answer = await ask("GET", f"{url}/else", headers=headers)
        if status == 404:  # which needs no token
            status, _, answer = await ask("GET", f"{url}/healthz-admin", headers=headers)
    told = answer.get("WWW-Authenticate", "no WWW-Authenticate")
    expect(status == 401, f"a bad token is answered {status} with {told}")


def right_verify():
    module = pattern("jwt_verify")
    return module.hs256_verifier(SECRET.encode(), module.TokenPolicy(issuer="i", audience="a"))


@case("jwt_verify", wrong=lambda: snippet("jwt_verify").verify, right=right_verify)
async def a_token_without_an_end_is_refused(verify):
    claims = {"sub": "ada", "iat": int(time.time())}
    token = jwt.encode(claims, SECRET, "HS256")
    try:
        await verify(token)
    except (ValueError, jwt.InvalidTokenError):
        return
    expect(False, "a token without exp, iss and aud was accepted")


# --- sse -----------------------------------------------------------------------------------------


def wrong_sse():
    module = snippet("sse")
    app = module.create_app()

    def publish(data):
        for queue in app[module.QUEUES]:
            queue.put_nowait(data)

    return app, publish, lambda: len(app[module.QUEUES])


def right_sse():
    module = pattern("sse")
    streams, sends = module.Streams(), set()

    @asynccontextmanager
    async def source(send, after):
        sends.add(send)
        try:
            yield [], "", False
        finally:
            sends.discard(send)

    async def events(request):
        return await streams.serve(request, source)

    def publish(data):
        for send in sends:
            send(module.sse_chunk(data.encode()))

    return app_with(routes=[("GET", "/events", events)]), publish, lambda: streams.open


@case("sse", wrong=wrong_sse, right=right_sse)
async def a_client_that_left_frees_its_handler(subject):
    app, _, open_ = subject
    async with serving(app) as url, aiohttp.ClientSession() as session:
        for _ in range(10):
            response = await session.get(f"{url}/events")
            response.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                while open_():
                    await asyncio.sleep(0.01)
        left = open_()
    expect(left == 0, f"after 10 clients have left, {left} handlers still wait")


@case("sse", wrong=wrong_sse, right=right_sse)
async def an_event_of_two_lines_arrives_whole(subject):
    app, publish, open_ = subject
    async with (
        serving(app) as url,
        aiohttp.ClientSession() as session,
        session.get(f"{url}/events") as response,
    ):
        while not open_():
            await asyncio.sleep(0.01)
        publish("one\ntwo")
        data, line = [], b"first"
        while not data or line.strip():
            line = await response.content.readline()
            if line.startswith(b"data:"):
                data.append(line[5:].strip().decode())
    expect(data == ["one", "two"], f"of 'one' and 'two' an EventSource got {data}")


# --- request_log ---------------------------------------------------------------------------------


def wrong_log():
    stream = io.StringIO()
    logger = logging.getLogger("requests")
    logger.handlers, logger.propagate = [logging.StreamHandler(stream)], False
    logger.setLevel("INFO")
    return app_with(snippet("request_log").log, routes=[("GET", "/", ok)]), stream.getvalue


def right_log():
    lines = []
    middleware = pattern("request_log").request_log(lines.append)
    return app_with(middleware, routes=[("GET", "/", ok)]), lambda: b"".join(lines).decode()


@case("request_log", wrong=wrong_log, right=right_log)
async def a_request_that_ends_in_an_error_is_in_the_log(subject):
    app, log = subject
    async with serving(app) as url:
        await ask("GET", f"{url}/missing")
    expect("404" in log(), f"the log of a request that ended in 404 is {log()!r}")


@case("request_log", wrong=wrong_log, right=right_log)
async def the_query_is_not_in_the_log(subject):
    app, log = subject
    async with serving(app) as url:
        await ask("GET", f"{url}/?token=s3cret")
    expect("s3cret" not in log(), "the token of ?token= is in the log")


# --- body ----------------------------------------------------------------------------------------


def wrong_body():
    return app_with(routes=[("POST", "/", snippet("body").create)])


def right_body():
    read = pattern("body").bounded_body(max_bytes=2**20, timeout=0.2)

    async def create(request):
        return web.json_response({"size": len(await read(request))})

    return app_with(routes=[("POST", "/", create)])


@case("body", wrong=wrong_body, right=right_body)
async def a_small_body_does_not_unpack_to_a_large_one(app):
    async with serving(app) as url:
        bomb = gzip.compress(bytes(50 * 2**20))
        headers = {"Content-Encoding": "gzip"}
        status, _, _ = await ask("POST", url, data=bomb, headers=headers)
    expect(status == 413, f"{len(bomb) // 1000} KB became 50 MiB in memory, answered {status}")


@case("body", wrong=wrong_body, right=right_body)
async def a_body_that_never_ends_is_given_up(app):
    async with serving(app) as url:
        client = await raw(url, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf")
        answer = b""
        with suppress(TimeoutError):
            async with asyncio.timeout(1):
                answer = await asyncio.get_running_loop().sock_recv(client, 100)
        client.close()
    expect(b" 408 " in answer, "a second later half a body is still being waited for")


# --- typed_handlers ------------------------------------------------------------------------------


def wrong_typed():
    return app_with(routes=[("POST", "/", snippet("typed_handlers").create)])


def right_typed():
    typed, parts = pattern("typed_handlers"), pattern("request_parts")
    user = snippet("typed_handlers").User

    async def create(user):
        return {"name": user.name}

    create.__annotations__ = {"user": parts.Body[user], "return": dict[str, str]}
    return app_with(routes=[("POST", "/", typed.typed(create))])


@case("typed_handlers", wrong=wrong_typed, right=right_typed)
async def a_client_s_mistake_is_no_500(app):
    async with serving(app) as url:
        found = {body: (await ask("POST", url, data=body, headers=JSON))[0] for body in MISTAKES}
    expect(max(found.values()) < 500, f"bodies and their answers: {found}")


JSON = {"Content-Type": "application/json"}
MISTAKES = ["", "{", "[1]", "null"]


@case("typed_handlers", wrong=wrong_typed, right=right_typed)
async def what_was_sent_is_not_sent_back(app):
    body = json.dumps({"name": 7, "password": ["hunter2"]})
    async with serving(app) as url:
        _, text, _ = await ask("POST", url, data=body, headers=JSON)
    expect("hunter2" not in text, "the answer repeats the password that was sent")


# --- rate_limit, trusted_proxies -----------------------------------------------------------------


def wrong_rate():
    return app_with(snippet("rate_limit").rate_limit, routes=[("GET", "/", ok)])


def right_rate():
    module = pattern("rate_limit")
    limit = module.rate_limit(module.RateLimit(5, per=60), key=module.client_network)
    return app_with(limit, routes=[("GET", "/", ok)])


@case("rate_limit", wrong=wrong_rate, right=right_rate)
async def requests_that_come_together_do_not_slip_through(app):
    async with serving(app) as url:
        answers = await asyncio.gather(*(ask("GET", url) for _ in range(20)))
    passed = sum(status == 200 for status, _, _ in answers)
    expect(passed == 5, f"of 20 requests at once, with a limit of 5, {passed} passed")


@case("rate_limit", wrong=wrong_rate, right=right_rate)
async def a_refusal_says_when_to_come_back(app):
    async with serving(app) as url:
        for _ in range(6):
            status, _, headers = await ask("GET", url)
    expect("Retry-After" in headers, f"the {status} has no Retry-After header")


def wrong_proxies():
    return app_with(routes=[("GET", "/", snippet("trusted_proxies").who)])


def right_proxies():
    async def who(request):
        return web.Response(text=request.remote)

    believe = pattern("trusted_proxies").trusted_proxies(["127.0.0.1"])
    return app_with(believe, routes=[("GET", "/", who)])


@case("trusted_proxies", wrong=wrong_proxies, right=right_proxies)
async def a_client_cannot_choose_its_address(app):
    async with serving(app) as url:
        # The client sent the first; the proxy, which is the peer, added whom it saw.
        _, seen, _ = await ask("GET", url, headers={"X-Forwarded-For": "10.0.0.1, 192.0.2.7"})
    expect(seen == "192.0.2.7", f"192.0.2.7, who wrote so itself, is taken for {seen}")


# --- uploads, downloads, static_files ------------------------------------------------------------


def wrong_uploads():
    module = snippet("uploads")

    def make(folder):
        app = app_with(routes=[("POST", "/", module.upload)])
        app[module.FOLDER] = str(folder)
        return app

    return make


def right_uploads():
    module = pattern("uploads")

    def make(folder):
        receive = module.uploads(module.UploadLimits(), folder=folder)

        async def upload(request):
            async with receive(request) as form:
                return web.Response(text=f"{form.files[0].filename}: {form.files[0].size} bytes")

        return app_with(routes=[("POST", "/", upload)])

    return make


@case("uploads", wrong=wrong_uploads, right=right_uploads)
async def a_file_s_name_does_not_choose_its_place(make):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "uploads")
        folder.mkdir()
        form = aiohttp.FormData(quote_fields=False)
        form.add_field("file", b"owned", filename="../authorized_keys")
        async with serving(make(folder)) as url:
            await ask("POST", url, data=form)
        expect(not Path(name, "authorized_keys").exists(), "../authorized_keys was written")


@case("uploads", wrong=wrong_uploads, right=right_uploads)
async def half_an_upload_leaves_nothing(make):
    body = b'--b\r\nContent-Disposition: form-data; name=f; filename="half"\r\n\r\n' + b"x" * 9000
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999\r\n"
    head += b"Content-Type: multipart/form-data; boundary=b\r\n\r\n"
    with tempfile.TemporaryDirectory() as name:
        async with serving(make(Path(name)), access_log=None) as url:
            client = await raw(url, head + body)
            while not (left := list(Path(name).iterdir())):
                await asyncio.sleep(0.01)
            client.close()
            with suppress(TimeoutError):
                async with asyncio.timeout(0.5):
                    while left := [each.name for each in Path(name).iterdir()]:
                        await asyncio.sleep(0.01)
    expect(not left, f"the client has left, and still there is {left}")


def wrong_downloads():
    module = snippet("downloads")

    def make(rows):
        app = app_with(routes=[("GET", "/", module.export)])
        app[module.ROWS] = rows
        return app

    return make


def right_downloads():
    module = pattern("downloads")

    def make(rows):
        async def export(request):
            return await module.download(request, rows(), filename="rows.csv")

        return app_with(routes=[("GET", "/", export)])

    return make


@case("downloads", wrong=wrong_downloads, right=right_downloads)
async def an_error_before_the_first_row_is_an_answer(make):
    async def rows():
        raise web.HTTPNotFound
        yield b""

    async with serving(make(rows)) as url:
        try:
            status, text, _ = await ask("GET", url)
        except aiohttp.ClientError as error:
            status, text = 200, type(error).__name__
    expect(status == 404, f"a source that is not there is answered {status}, then {text}")


def wrong_static():
    def make(folder):
        app = web.Application()
        snippet("static_files").add_files(app, folder)
        return app

    return make


def right_static():
    def make(folder):
        return app_with(
            routes=[("GET", "/{path:.*}", pattern("static_files").static_files(folder))]
        )

    return make


async def files(make, path):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "public")
        folder.mkdir()
        Path(name, "outside").write_text("secret")
        (folder / "link").symlink_to(Path(name, "outside"))
        (folder / "app.3f2a9c1b.js").write_text("run()")
        async with serving(make(folder)) as url:
            return await ask("GET", url + path)


@case("static_files", wrong=wrong_static, right=right_static)
async def a_folder_is_not_listed(make):
    status, text, _ = await files(make, "/")
    expect(
        "app.3f2a9c1b.js" not in text, f"the folder is answered {status} with a list of its files"
    )


@case("static_files", wrong=wrong_static, right=right_static)
async def a_link_does_not_lead_outside(make):
    status, text, _ = await files(make, "/link")
    expect(text != "secret", f"a file outside of the folder is answered {status}")


@case("static_files", wrong=wrong_static, right=right_static)
async def a_hashed_file_is_cached(make):
    _, _, headers = await files(make, "/app.3f2a9c1b.js")
    found = headers.get("Cache-Control", "no Cache-Control")
    expect("immutable" in found, f"app.3f2a9c1b.js comes with {found}")


# --- basic_auth ----------------------------------------------------------------------------------


def wrong_basic():
    return app_with(snippet("basic_auth").basic_auth, routes=[("GET", "/", ok)])


def right_basic():
    module = pattern("basic_auth")
    users = {"admin": module.hash_password("pass:word")}
    return app_with(module.basic_auth(users, realm="tools"), routes=[("GET", "/", ok)])


@case("basic_auth", wrong=wrong_basic, right=right_basic)
async def any_header_and_any_password_are_understood(app):
    good = b64encode(b"admin:pass:word").decode()
    async with serving(app) as url:
        found = {
            header: (await ask("GET", url, headers={"Authorization": header}))[0]
            for header in (f"Basic {good}", "Basic", "Basic not-base64", "Bearer token")
        }
    expect(list(found.values()) == [200, 401, 401, 401], f"headers and their answers: {found}")


# --- headers: cors, security_headers, request_id -------------------------------------------------


def right_cors():
    module = pattern("cors")
    origins = {"https://app.example"}
    return app_with(
        module.cors_preflight(origins),
        routes=[("GET", "/", ok)],
        prepare=[module.cors_headers(origins)],
    )


def wrong_cors():
    return app_with(snippet("cors").cors, routes=[("GET", "/", ok)])


ORIGIN = {"Origin": "https://app.example", "Access-Control-Request-Method": "GET"}


@case("cors", wrong=wrong_cors, right=right_cors)
async def a_page_may_read_errors_too(app):
    async with serving(app) as url:
        status, _, headers = await ask("GET", f"{url}/missing", headers=ORIGIN)
    found = "Access-Control-Allow-Origin" in headers
    expect(found, f"the {status} has no Access-Control-Allow-Origin: a page sees a network error")


@case("cors", wrong=wrong_cors, right=right_cors)
async def a_preflight_is_answered(app):
    async with serving(app) as url:
        status, _, _ = await ask("OPTIONS", url, headers=ORIGIN)
    expect(status in {200, 204}, f"the preflight is answered {status}")


def wrong_security():
    return app_with(snippet("security_headers").security_headers, routes=[("GET", "/", ok)])


def right_security():
    return app_with(
        routes=[("GET", "/", ok)], prepare=[pattern("security_headers").security_headers()]
    )


@case("security_headers", wrong=wrong_security, right=right_security)
async def errors_have_the_headers_too(app):
    async with serving(app) as url:
        status, _, headers = await ask("GET", f"{url}/missing")
    found = headers.get("X-Content-Type-Options")
    expect(found == "nosniff", f"the {status} has X-Content-Type-Options: {found}")


def wrong_ids():
    return app_with(snippet("request_id").request_id, routes=[("GET", "/", ok)])


def right_ids():
    module = pattern("request_id")
    return app_with(module.identify, routes=[("GET", "/", ok)], prepare=[module.send_request_id])


@case("request_id", wrong=wrong_ids, right=right_ids)
async def an_error_can_be_found_by_its_id(app):
    async with serving(app) as url:
        status, _, headers = await ask("GET", f"{url}/missing")
    expect("X-Request-ID" in headers, f"the {status} has no X-Request-ID header")


@case("request_id", wrong=wrong_ids, right=right_ids)
async def an_id_from_outside_is_only_believed_when_it_is_one(app):
    async with serving(app) as url:
        head = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        head += b'X-Request-ID: "},{"user":"root\r\n\r\n'
        client = await raw(url, head)
        answer = b""
        while chunk := await asyncio.get_running_loop().sock_recv(client, 65536):
            answer += chunk
        client.close()
    expect(b"root" not in answer, 'the id {"user":"root is taken over, into the log as well')


# --- health, metrics, json_logging ---------------------------------------------------------------


@case(
    "health",
    wrong=lambda: lambda up: snippet("health").health,
    right=lambda: lambda up: pattern("health").readyz({"serving": up}),
)
async def a_service_that_stops_says_so(make):
    draining = []
    async with serving(app_with(routes=[("GET", "/", make(lambda: not draining))])) as url:
        before, _, _ = await ask("GET", url)
        draining.append(True)
        after, _, _ = await ask("GET", url)
    expect((before, after) == (200, 503), f"while it drains the service is answered {after}")


def wrong_metrics():
    module = snippet("metrics")
    return app_with(module.count, routes=[("GET", "/items/{id}", ok)]), module.registry


def right_metrics():
    registry = CollectorRegistry()
    middleware = pattern("metrics").metrics(registry)
    return app_with(middleware, routes=[("GET", "/items/{id}", ok)]), registry


def counted(registry):
    return [
        sample.labels
        for metric in registry.collect()
        for sample in metric.samples
        if sample.name.endswith("requests_total")
    ]


@case("metrics", wrong=wrong_metrics, right=right_metrics)
async def ids_make_no_series(subject):
    app, registry = subject
    async with serving(app) as url:
        for number in range(50):
            await ask("GET", f"{url}/items/{number}")
    found = len(counted(registry))
    expect(found == 1, f"50 items of one route made {found} series")


@case("metrics", wrong=wrong_metrics, right=right_metrics)
async def a_404_is_no_500(subject):
    app, registry = subject
    async with serving(app) as url:
        await ask("GET", f"{url}/missing")
    (labels,) = counted(registry)
    expect(labels["status"] == "404", f"a 404 is counted as {labels['status']}")


def wrong_logging():
    stream = io.StringIO()
    snippet("json_logging").configure(stream)
    return stream.getvalue


def right_logging():
    lines = []
    encode = pattern("request_log").json_line
    pattern("json_logging").configure_logging(level="info", write=lines.append, encode=encode)
    return lambda: b"".join(lines).decode()


@case("json_logging", wrong=wrong_logging, right=right_logging)
async def every_line_is_json(log):
    try:
        logging.getLogger("billing").info('charged "%s"', "42 EUR")
    finally:
        logging.basicConfig(level="WARNING", handlers=[logging.NullHandler()], force=True)
        logging.captureWarnings(False)
    try:
        json.loads(log())
    except ValueError:
        line = log().strip().partition('"message"')[2]
        expect(False, f'a reader of JSON fails at "message"{line}')


# --- stream_tickets, broker ----------------------------------------------------------------------


def wrong_tickets():
    app = app_with(routes=[("GET", "/stream", snippet("stream_tickets").stream)])
    return app, "?token=a-token-that-is-good-for-an-hour"


def right_tickets():
    tickets = pattern("stream_tickets").StreamTickets(SECRET.encode(), audience="x")

    async def stream(request):
        try:
            tickets.redeem(request.query.get("ticket", ""), request.path)
        except ValueError:
            raise web.HTTPUnauthorized from None
        return web.Response(text="the stream")

    end = time.time() + 3600
    ticket = tickets.issue(sub="ada", scopes=["read"], expires_at=end, path="/stream")
    return app_with(routes=[("GET", "/stream", stream)]), f"?ticket={ticket}"


@case("stream_tickets", wrong=wrong_tickets, right=right_tickets)
async def who_reads_the_access_log_gets_nothing(subject):
    app, query = subject
    async with serving(app) as url:
        first, _, _ = await ask("GET", f"{url}/stream{query}")
        again, _, _ = await ask("GET", f"{url}/stream{query}")  # as the access log has it
    expect(first == 200, f"the stream itself is answered {first}")
    expect(again == 401, f"the line of the access log, sent again, is answered {again}")


def wrong_broker():
    broker = snippet("broker").Broker()

    async def read(last):
        queue = broker.subscribe()
        await asyncio.sleep(0)
        return [queue.get_nowait() for _ in range(queue.qsize())], None

    async def publish(payload):
        await broker.publish(payload)

    return publish, read


def right_broker():
    broker = pattern("broker").MemoryBroker(history=100)

    async def publish(payload):
        return (await broker.publish("topic", payload)).id

    async def read(last):
        events, _ = await broker.page("topic", last, 100)
        return [event.payload for event in events], None

    return publish, read


@case("broker", wrong=wrong_broker, right=right_broker)
async def what_was_sent_while_away_is_found_again(subject):
    publish, read = subject
    last = await publish(b"seen")
    for number in range(3):
        await publish(b"missed %d" % number)
    found, _ = await read(last)
    expect(len(found) == 3, f"of 3 events that came while a client was away it gets {len(found)}")


# --- off_loop, background_tasks, retries ---------------------------------------------------------


def wrong_off_loop():
    return app_with(routes=[("GET", "/report", snippet("off_loop").report), ("GET", "/livez", ok)])


def right_off_loop():
    pool = pattern("off_loop").OffLoop(threads=2)

    async def report(request):
        await pool.run(time.sleep, 0.3)
        return web.Response(text="report")

    app = app_with(routes=[("GET", "/report", report), ("GET", "/livez", ok)])
    app.cleanup_ctx.append(pool.running)
    return app


@case("off_loop", wrong=wrong_off_loop, right=right_off_loop)
async def others_go_on_while_one_blocks(app):
    async with serving(app) as url, aiohttp.ClientSession() as session:
        report = asyncio.create_task(ask("GET", f"{url}/report"))
        await asyncio.sleep(0.05)  # it has begun, or has it ended?
        early = not report.done()
        async with session.get(f"{url}/livez") as response:
            await response.read()
        early = early and not report.done()
        await report
    expect(early, "/livez is answered only after the report of 0.3 s")


def wrong_background():
    module = snippet("background_tasks")

    def make(work):
        app = app_with(routes=[("POST", "/", module.order)])
        app[module.SEND] = work
        return app

    return make


def right_background():
    background = pattern("background_tasks").BackgroundTasks()

    def make(work):
        async def order(request):
            background.start("receipt", work)
            return web.Response(status=202)

        app = app_with(routes=[("POST", "/", order)])
        app.cleanup_ctx.append(background.running)
        return app

    return make


@case("background_tasks", wrong=wrong_background, right=right_background)
async def what_was_promised_is_done_before_the_end(make):
    sent = []

    async def send():
        await asyncio.sleep(0.1)
        sent.append(1)

    async with serving(make(send)) as url:
        status, _, _ = await ask("POST", url)
    expect(sent, f"the order was answered {status}, and its receipt is lost with the shutdown")


def wrong_retries():
    async def call(method, url):
        async with aiohttp.ClientSession() as session:
            return await snippet("retries").fetch(session, method, url)

    return call


def right_retries():
    async def call(method, url):
        middlewares = (pattern("retries").Retries(),)
        async with (
            aiohttp.ClientSession(middlewares=middlewares) as session,
            session.request(method, url) as response,
        ):
            return response.status

    return call


@case("retries", wrong=wrong_retries, right=right_retries)
async def what_may_have_happened_is_not_done_again(call):
    charges = []

    async def charge(request):
        charges.append(1)
        raise web.HTTPBadGateway

    async with serving(app_with(routes=[("POST", "/", charge)])) as url:
        await call("POST", url)
    expect(len(charges) == 1, f"one POST charged {len(charges)} times")


# --- request_parts, token_cache, parser_errors, docs_page ----------------------------------------


def wrong_parts():
    return app_with(routes=[("GET", "/", snippet("request_parts").search)])


def right_parts():
    typed, parts = pattern("typed_handlers"), pattern("request_parts")

    async def search(day, limit=10):
        return {"limit": limit, "day": str(day)}

    search.__annotations__ = {
        "day": parts.Query[date],
        "limit": parts.Query[int],
        "return": dict[str, int | str],
    }
    return app_with(routes=[("GET", "/", typed.typed(search))])


@case("request_parts", wrong=wrong_parts, right=right_parts)
async def a_wrong_parameter_is_the_client_s_mistake(app):
    queries = ["day=2026-01-01&limit=ten", "", "day=tomorrow"]
    async with serving(app) as url:
        found = {query: (await ask("GET", f"{url}/?{query}"))[0] for query in queries}
    expect(set(found.values()) == {422}, f"queries and their answers: {found}")


class Tokens:
    """A verifier and a clock, for a token that ends at 100."""

    def __init__(self):
        self.time, self.verified = 0.0, []

    def now(self):
        return self.time

    def verify(self, token):
        self.verified.append(token)
        if self.time > 100:
            raise ValueError("expired")
        return "ada"


def wrong_cache():
    tokens = Tokens()
    return tokens, snippet("token_cache").cached(tokens.verify)


def right_cache():
    tokens = Tokens()
    cache = pattern("token_cache").TokenCache(now=tokens.now)

    def verify(token):
        if (found := cache.get(token)) is None:
            cache.put(token, found := tokens.verify(token), expires_at=100)
        return found

    return tokens, verify


@case("token_cache", wrong=wrong_cache, right=right_cache)
async def a_remembered_token_ends_when_it_ends(subject):
    tokens, verify = subject
    verify("token")
    verify("token")
    expect(len(tokens.verified) == 1, "nothing is remembered")
    tokens.time = 101
    with suppress(ValueError):
        verify("token")
        expect(False, "a token that has ended is still good")


async def malformed(make, data):
    runner = web.AppRunner(snippet("parser_errors").create_app(), shutdown_timeout=0.01)
    await runner.setup()
    try:
        make(runner.server)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        client, answer = await raw(f"http://{host}:{port}", data), b""
        while chunk := await asyncio.get_running_loop().sock_recv(client, 65536):
            answer += chunk
        client.close()
        return answer.decode()
    finally:
        await runner.cleanup()


def right_parser():
    module = pattern("parser_errors")

    def install(server):
        server.request_factory = module.parser_problems(server.request_factory)

    return install


@case("parser_errors", wrong=lambda: lambda server: None, right=right_parser)
async def what_is_no_http_gets_an_answer_like_the_others(make):
    answer = await malformed(make, b"GET / HTTP/1.1\r\nHost: x\r\nBad Header: s3cret\r\n\r\n")
    kind = answer.partition("Content-Type: ")[2].partition("\r\n")[0]
    expect("json" in kind, f"its type is {kind}")


@case("parser_errors", wrong=lambda: lambda server: None, right=right_parser)
async def what_is_no_http_is_not_sent_back(make):
    answer = await malformed(make, b"GET / HTTP/1.1\r\nHost: x\r\nBad Header: s3cret\r\n\r\n")
    expect("s3cret" not in answer, "the answer repeats the header that was sent")


def right_docs():
    pages = pattern("docs_page").docs_page(title="API", openapi_url="openapi.json")
    return app_with(routes=[("GET", path, page) for path, page in pages.items()])


@case(
    "docs_page",
    wrong=lambda: app_with(routes=[("GET", "/docs", snippet("docs_page").docs)]),
    right=right_docs,
)
async def the_page_works_without_the_internet(app):
    async with serving(app) as url:
        _, text, _ = await ask("GET", f"{url}/docs")
    expect("https://" not in text, "the page runs scripts of https://cdn.example")


# --- breaker, upstream, jwks ---------------------------------------------------------------------


def wrong_breaker():
    return snippet("breaker").call, ()


def right_breaker():
    module = pattern("breaker")
    return snippet("breaker").call, (module.CircuitBreaker(threshold=3, cooldown=60),)


@case("breaker", wrong=wrong_breaker, right=right_breaker)
async def a_dead_upstream_is_left_alone(subject):
    call, middlewares = subject
    asked = []

    async def hang(request):
        asked.append(1)
        await asyncio.sleep(0.3)
        return web.Response()

    async with (
        serving(app_with(routes=[("GET", "/", hang)])) as url,
        aiohttp.ClientSession(middlewares=middlewares) as session,
    ):
        for _ in range(10):
            await call(session, url)
    expect(len(asked) == 3, f"10 callers each waited for the whole timeout, {len(asked)} calls")


def wrong_upstream():
    return lambda session, url: snippet("upstream").fetch(session, url)


def right_upstream():
    module = pattern("upstream")

    class Rate(BaseModel):
        rate: float

    async def fetch(session, url):
        return (await module.Upstream(url, timeout=1).get(session, "/", Rate)).model_dump()

    return fetch


@case("upstream", wrong=wrong_upstream, right=right_upstream)
async def whatever_an_upstream_sends_it_is_not_our_fault(fetch):
    answers = {
        "a login page": web.Response(text="<h1>Log in</h1>", content_type="text/html"),
        "another shape": web.json_response(["no", "rate"]),
        "a 500": web.json_response({"rate": 1}, status=500),
        "20 MB": web.json_response({"rate": 1, "more": "x" * 20_000_000}),
    }
    found = {}
    async with aiohttp.ClientSession() as session:
        for name, answer in answers.items():

            async def upstream(request, answer=answer):
                return answer

            async with serving(app_with(routes=[("GET", "/", upstream)])) as url:
                try:
                    found[name] = f"{type(await fetch(session, url)).__name__} accepted"
                except Exception as error:
                    found[name] = type(error).__name__
    expect(set(found.values()) == {"HTTPBadGateway"}, f"answers and what a handler gets: {found}")


def wrong_jwks():
    @asynccontextmanager
    async def keys(url):
        key_for = snippet("jwks").key_source(url)
        header = {"kid": "unknown"}
        token = jwt.encode({"sub": "ada"}, SECRET, "HS256", headers=header)
        yield lambda: key_for(token)

    return keys


def right_jwks():
    module = pattern("jwks")

    @asynccontextmanager
    async def keys(url):
        async with aiohttp.ClientSession() as session:
            source = module.JWKS(url, lambda: session)
            yield lambda: source("unknown", "RS256")

    return keys


@asynccontextmanager
async def issuer(seconds):
    """In a thread of its own, or who blocks the loop would never be answered."""
    key = rsa.generate_private_key(65537, 2048).public_key()
    jwk = jwt.algorithms.RSAAlgorithm.to_jwk(key, as_dict=True) | {"kid": "a", "use": "sig"}
    body = json.dumps({"keys": [jwk]}).encode()

    class Issuer(BaseHTTPRequestHandler):
        def do_GET(self):
            time.sleep(seconds)
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Issuer)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/jwks.json"
    finally:
        await asyncio.to_thread(server.shutdown)
        server.server_close()
        thread.join()


@case("jwks", wrong=wrong_jwks, right=right_jwks)
async def a_slow_issuer_does_not_stop_the_service(keys):
    async with issuer(0.3) as url, keys(url) as find:
        finding = asyncio.create_task(find())
        await asyncio.sleep(0.05)
        early = not finding.done()
        await asyncio.wait({finding})
        finding.exception()
    expect(early, "for the 0.3 s that the issuer takes, nobody is served")


# --- adaptive_limit, cheap_refusal, loop_watch ---------------------------------------------------


def wrong_adaptive():
    limit = snippet("adaptive_limit").LatencyLimit()

    def window(now, done, seconds):
        for _ in range(done):
            limit.finished(seconds)

    return limit, window


def right_adaptive():
    limit = pattern("adaptive_limit").AdaptiveLimit(ceiling=1000)

    def window(now, done, seconds):
        limit.finished(done)
        limit.decide(0.001, now)  # the loop is 1 ms late: it has next to nothing to do

    return limit, window


@case("adaptive_limit", wrong=wrong_adaptive, right=right_adaptive)
async def a_slow_dependency_is_no_reason_to_refuse(subject):
    """By a clock of its own: 20 requests a second, a window of 0.1 s at a time."""
    limit, window = subject
    begun, refused = [], []
    for number in range(600):
        now, seconds = number / 10, 0.1 if number < 300 else 2.0
        done = [begin for begin in begun if begin + seconds <= now]
        begun = [begin for begin in begun if begin + seconds > now]
        window(now, len(done), seconds)
        for _ in range(2):
            if limit.admit(len(begun)):
                begun.append(now)
            else:
                refused.append(now)
    if hasattr(limit, "stop"):
        await limit.stop()
    late = sum(now >= 50 for now in refused)
    expect(not late, f"20 s after a dependency became slow {late} of 200 requests are refused")
    expect(not refused, f"{len(refused)} requests were refused")


def refusing(refuse):
    seen = []

    @web.middleware
    async def shed(request, handler):
        return refuse(request, "Come back later.")

    async def callback(request, response):
        seen.append(response)

    return app_with(shed, prepare=[callback]), seen


def wrong_refusal():
    return refusing(snippet("cheap_refusal").refuse)


def right_refusal():
    return refusing(pattern("cheap_refusal").cheap_refusal())


async def refusals(app):
    async with serving(app) as url, aiohttp.ClientSession() as session:
        for _ in range(50):
            async with session.get(url) as response:
                await response.read()
                yield response


@case("cheap_refusal", wrong=wrong_refusal, right=right_refusal)
async def who_is_refused_does_not_come_back_with_all_the_others(subject):
    app, _ = subject
    times = {response.headers["Retry-After"] async for response in refusals(app)}
    expect(len(times) >= 3, f"50 refused clients come back after {', '.join(times)} s, all of them")


@case("cheap_refusal", wrong=wrong_refusal, right=right_refusal)
async def a_refusal_is_less_work_than_an_answer(subject):
    app, seen = subject
    statuses = {response.status async for response in refusals(app)}
    expect(statuses == {503}, f"refusals are answered {statuses}")
    expect(not seen, f"50 refusals made {len(seen)} responses, each with all the callbacks")


def wrong_gate():
    return app_with(snippet("early_refusal").shed_load(limit=0)), lambda server: None


def right_gate():
    module = pattern("early_refusal")
    answer = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
    gate = module.Gate(
        crowded=lambda: True,
        admits=lambda promised: False,
        spared=lambda path: False,
        answer=lambda path, known: answer,
    )
    return app_with(), lambda server: module.refuse_early(server, gate)


@asynccontextmanager
async def listening(app, prepare):
    """A server that `prepare` was given before it listened, and its URL."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01)
    await runner.setup()
    prepare(runner.server)
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        yield runner.server, f"http://{host}:{port}"
    finally:
        await runner.cleanup()


@case("early_refusal", wrong=wrong_gate, right=right_gate)
async def a_full_server_does_not_parse_what_it_refuses(subject):
    async with listening(*subject) as (server, url), aiohttp.ClientSession(url) as session:
        for _ in range(50):
            async with session.get("/") as response:
                expect(response.status == 503, f"a refusal is answered {response.status}")
        made = server.requests_count
    expect(not made, f"50 refusals: {made} requests were parsed and given a task each")


def wrong_clients():
    return app_with(snippet("slow_clients").timeout), lambda server: None


def right_clients():
    cut_off = pattern("slow_clients").cut_off_slow_clients
    return web.Application(), partial(cut_off, head=0.1, unread=0.1)


async def held(subject, request):
    """The connections left two seconds after a client that reads nothing has sent this."""

    async def large(request):
        return web.Response(body=bytes(16 * 2**20))

    subject[0].router.add_get("/large", large)
    async with listening(*subject) as (server, url):
        client = await raw(url, request, small=True)
        with suppress(TimeoutError):
            async with asyncio.timeout(2):
                while not server.connections:
                    await asyncio.sleep(0.01)
                while server.connections:
                    await asyncio.sleep(0.01)
        count = len(server.connections)
        client.close()
    return count


@case("slow_clients", wrong=wrong_clients, right=right_clients)
async def who_does_not_read_is_gone_in_time(subject):
    count = await held(subject, b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
    expect(not count, f"after two seconds the server still holds {count} connection")


@case("slow_clients", wrong=wrong_clients, right=right_clients)
async def who_sends_half_a_head_is_gone_in_time(subject):
    count = await held(subject, b"GET /large HTTP/1.1\r\nHost: x\r\n")
    expect(not count, f"after two seconds the server still holds {count} connection")


@asynccontextmanager
async def heard(name, level=logging.WARNING):
    """What is logged meanwhile, and an event for the first of it."""
    records, first = [], threading.Event()

    class Listener(logging.Handler):
        def emit(self, record):
            records.append(record)
            first.set()

    logger, listener = logging.getLogger(name), Listener()
    before = logger.level
    logger.setLevel(level)
    logger.addHandler(listener)
    try:
        yield records, first
    finally:
        logger.removeHandler(listener)
        logger.setLevel(before)


def wrong_watch():
    module = snippet("loop_watch")
    return module.logger.name, module.lag_monitor


def right_watch():
    module = pattern("loop_watch")
    lag = module.LoopLag()
    return module.logger.name, module.watch_loop(lag, every=0.02, warn_after=0.1, quiet=0)


async def blocked(subject):
    """What was logged while a route blocked, for 0.6 s or until then, and all that was logged."""
    name, context = subject
    during = []
    async with heard(name) as (records, first):

        async def report(request):
            records.clear()  # of a machine that is busy with something else
            first.clear()
            first.wait(0.6)
            during.extend(records)
            return web.Response()

        app = app_with(routes=[("GET", "/report", report)])
        app.cleanup_ctx.append(context)
        async with serving(app) as url:
            await ask("GET", f"{url}/report")
            with suppress(TimeoutError):
                async with asyncio.timeout(2):
                    while not records:
                        await asyncio.sleep(0.01)
    return during, records


@case("loop_watch", wrong=wrong_watch, right=right_watch)
async def a_block_is_seen_while_it_lasts(subject):
    during, records = await blocked(subject)
    expect(records, "a block is never logged")
    expect(during, "nothing is logged until the block is over")


@case("loop_watch", wrong=wrong_watch, right=right_watch)
async def the_route_that_blocks_is_named(subject):
    _, records = await blocked(subject)
    named = any("/report" in record.getMessage() for record in records)
    expect(named, f"/report blocks, and what is logged of it is {records[0].msg!r}")


# --- openapi, server_noise -----------------------------------------------------------------------


def books(serve):
    typed, parts = pattern("typed_handlers").typed, pattern("request_parts")

    async def all_books(limit=10):
        return ["978"][:limit]

    async def book(isbn):
        return isbn

    all_books.__annotations__ = {"limit": parts.Query[int], "return": list[str]}
    book.__annotations__ = {"isbn": parts.Path[str], "return": str}
    routes = [("/books", typed(all_books)), ("/books/{isbn}", typed(book)), ("/openapi", serve)]
    return app_with(routes=[("GET", *route) for route in routes])


def wrong_openapi():
    return books(snippet("openapi").serve_openapi)


def right_openapi():
    module, describe = pattern("openapi"), pattern("typed_handlers").operation
    app = books(module.serve_openapi)
    app.on_startup.append(module.openapi(title="Books", version="1.0.0", describe=describe))
    return app


async def described(app):
    async with serving(app) as url:
        status, _, _ = await ask("GET", f"{url}/books/978")
        _, text, _ = await ask("GET", f"{url}/openapi")
    expect(status == 200, f"the route itself is answered {status}")
    return json.loads(text)["paths"]


@case("openapi", wrong=wrong_openapi, right=right_openapi)
async def a_route_that_was_added_is_in_the_document(app):
    missing = {"/books", "/books/{isbn}"} - set(await described(app))
    expect(not missing, f"served, and not in the document: {', '.join(missing)}")


@case("openapi", wrong=wrong_openapi, right=right_openapi)
async def a_parameter_that_was_added_is_in_the_document(app):
    found = (await described(app))["/books"]["get"].get("parameters", [])
    names = [parameter["name"] for parameter in found]
    expect(names == ["limit"], f"GET /books takes a limit, and its parameters are {names}")


def right_noise():
    quiet_noise = pattern("server_noise").quiet_noise

    def quiet():
        logging.getLogger("aiohttp.server").addFilter(quiet_noise(now=lambda: 0.0))

    return quiet


async def strangers(quiet):
    """What the server logs of five malformed requests, and what of a handler that fails."""
    logger = logging.getLogger("aiohttp.server")
    async with heard(logger.name, logging.INFO) as (records, _):
        before = list(logger.filters)
        quiet()
        try:
            async with serving(app_with(routes=[("GET", "/", fail)])) as url:
                for _ in range(5):
                    client = await raw(url, b"GET / HTTP/1.1\r\nHost: x\r\nBad Header: 1\r\n\r\n")
                    while await asyncio.get_running_loop().sock_recv(client, 65536):
                        pass
                    client.close()
                malformed = list(records)
                await ask("GET", url)
        finally:
            logger.filters[:] = before
        return malformed, records[len(malformed) :]


@case("server_noise", wrong=lambda: snippet("server_noise").quiet, right=right_noise)
async def an_error_of_the_service_is_still_logged(quiet):
    _, own = await strangers(quiet)
    found = [record for record in own if record.levelno == logging.ERROR and record.exc_info]
    expect(len(found) == 1, f"a handler raised RuntimeError, and it left {len(own)} lines")


@case("server_noise", wrong=lambda: snippet("server_noise").quiet, right=right_noise)
async def malformed_requests_leave_one_short_line(quiet):
    malformed, _ = await strangers(quiet)
    short = all(r.levelno == logging.INFO and not r.exc_info for r in malformed)
    expect(short, "malformed requests are errors with a traceback")
    expect(len(malformed) == 1, f"5 malformed requests leave {len(malformed)} lines")
