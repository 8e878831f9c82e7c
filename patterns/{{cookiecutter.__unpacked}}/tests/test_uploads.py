import asyncio
import os
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from textwrap import dedent

import aiohttp
import pytest
from aiohttp import web

from {{cookiecutter.package_name}}.patterns import uploads as pattern
from {{cookiecutter.package_name}}.patterns.uploads import Form, UploadLimits, safe_name, uploads

Use = Callable[[Form], Awaitable[None]]
PART = "--b\r\nContent-Disposition: form-data; name={}\r\n\r\n{}\r\n"
FILE = 'f; filename="a.txt"'
END = "--b--\r\n"


async def nothing(form: Form) -> None:
    pass


class Server:
    """A real server whose only handler receives an upload, and what came of it."""

    def __init__(self, folder: Path, limits: UploadLimits, use: Use) -> None:
        self.folder, self.use = folder, use
        self.receive = uploads(limits, folder=folder)
        self.ended: asyncio.Future[BaseException | None] = asyncio.Future()
        self.began = asyncio.Event()
        self.address = ("", 0)

    async def handler(self, request: web.Request) -> web.Response:
        self.began.set()
        try:
            async with self.receive(request) as form:
                await self.use(form)
                text = "|".join(f"{f.field} {f.filename} {f.size}" for f in form.files)
        except BaseException as error:
            self.ended.set_result(error)
            raise
        self.ended.set_result(None)
        return web.Response(text=text)

    def left(self) -> list[str]:
        return [each.name for each in self.folder.iterdir()]

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(*self.address)

    async def send(self, body: str | bytes, length: int | None = None) -> tuple[int, bytes]:
        """Status and body of the answer to these bytes of a form."""
        reader, writer = await self.connect()
        data = body.encode() if isinstance(body, str) else body
        writer.write(head(len(data) if length is None else length) + data)
        answer = await reader.read()
        writer.close()
        return int(answer.split()[1]), answer.split(b"\r\n\r\n", 1)[1]


def head(length: int, kind: str = "multipart/form-data; boundary=b") -> bytes:
    lines = ("POST / HTTP/1.1", "Host: x", f"Content-Type: {kind}", f"Content-Length: {length}")
    return "\r\n".join((*lines, "Connection: close", "", "")).encode()


@asynccontextmanager
async def serving(
    folder: Path, limits: UploadLimits | None = None, use: Use = nothing
) -> AsyncGenerator[Server]:
    server = Server(folder, limits or UploadLimits(seconds=5), use)
    app = web.Application()
    app.router.add_post("/", server.handler)
    runner = web.AppRunner(app, shutdown_timeout=0.01, lingering_time=0.01)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.address = runner.addresses[0][:2]
    try:
        async with asyncio.timeout(5):
            yield server
    finally:
        await runner.cleanup()


async def test_files_and_fields_come_in_their_order_and_are_gone_afterwards(
    tmp_path: Path,
) -> None:
    forms: list[Form] = []

    async def use(form: Form) -> None:
        forms.append(form)
        assert [file.path.read_bytes() for file in form.files] == [b"x" * 600_000, b""]

    data = aiohttp.FormData({"title": "Grüße"})
    data.add_field("big", b"x" * 600_000, filename="big.bin", content_type="image/png")
    data.add_field("empty", b"", filename="empty")
    data.add_field("title", "again")
    async with serving(tmp_path, use=use) as server:
        url = "http://{}:{}/".format(*server.address)
        async with aiohttp.request("POST", url, data=data) as response:
            assert await response.text() == "big big.bin 600000|empty empty 0"
    assert forms[0].fields == [("title", "Grüße"), ("title", "again")]
    assert forms[0].files[0].content_type == "image/png"
    assert server.left() == []


async def test_a_file_is_kept_by_moving_it(tmp_path: Path) -> None:
    kept = tmp_path / "kept"

    async def use(form: Form) -> None:
        await asyncio.to_thread(os.replace, form.files[0].path, kept)

    async with serving(tmp_path, use=use) as server:
        assert (await server.send(PART.format(FILE, "hello") + END))[0] == 200
    assert kept.read_text() == "hello"
    assert server.left() == ["kept"]


async def test_an_error_of_the_handler_removes_the_files(tmp_path: Path) -> None:
    async def use(form: Form) -> None:
        raise web.HTTPConflict

    async with serving(tmp_path, use=use) as server:
        assert (await server.send(PART.format(FILE, "hello") + END))[0] == 409
        assert server.left() == []


async def test_the_disk_is_never_touched_on_the_event_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: set[int] = set()
    write = pattern._write

    def watched(file: object, data: bytes) -> None:
        threads.add(threading.get_ident())
        write(file, data)  # type: ignore[arg-type]  # passed on as it came

    monkeypatch.setattr(pattern, "_write", watched)
    async with serving(tmp_path) as server:
        assert (await server.send(PART.format(FILE, "hello") + END))[0] == 200
    assert threads
    assert threading.get_ident() not in threads


@pytest.mark.parametrize(
    ("body", "length", "limits"),
    [
        (PART.format(FILE, "x" * 11) + END, None, UploadLimits(file=10)),
        (PART.format("t", "x" * 11) + END, None, UploadLimits(text=10)),
        (PART.format("t", "x") * 3 + END, None, UploadLimits(parts=2)),
        (PART.format(FILE, "x") * 3 + END, None, UploadLimits(parts=2)),
        ("", 1001, UploadLimits(body=1000)),
    ],
)
async def test_above_a_limit_it_is_refused_and_nothing_stays(
    tmp_path: Path, body: str, length: int | None, limits: UploadLimits
) -> None:
    async with serving(tmp_path, limits) as server:
        assert (await server.send(body, length))[0] == 413
        assert server.left() == []


async def test_a_refusal_is_the_connection_s_last_answer(tmp_path: Path) -> None:
    async with serving(tmp_path, UploadLimits(file=10)) as server:
        reader, writer = await server.connect()
        body = (PART.format(FILE, "x" * 11) + END).encode()
        writer.write(head(len(body)).replace(b"Connection: close\r\n", b"") + body)
        assert b" 413 " in await reader.read()
        writer.close()


async def test_the_limit_of_the_body_holds_without_a_declared_length(tmp_path: Path) -> None:
    async with serving(tmp_path, UploadLimits(body=1000)) as server:
        reader, writer = await server.connect()
        kind = b"Content-Type: multipart/form-data; boundary=b\r\n"
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n" + kind)
        writer.write(b"Connection: close\r\n\r\n")
        body = PART.format(FILE, "x" * 2**20).encode()
        writer.write(b"%x\r\n%s\r\n" % (len(body), body))
        assert (await reader.readline()).split()[1] == b"413"
        writer.close()
        assert server.left() == []


@pytest.mark.parametrize(
    "body",
    [
        "",
        "no form at all",
        PART.format(FILE, "hello"),
        PART.format(FILE, "hello") + "--other--\r\n",
        "--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n" + END,
        "--b\r\nno header\r\n\r\nx\r\n" + END,
        "--b\r\n" + "".join(f"X-{n}: x\r\n" for n in range(200)) + "\r\nx\r\n" + END,
        "--b\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n--c--\r\n" + END,
        b"--b\r\nContent-Disposition: form-data; name=t\r\n\r\n\xff\r\n--b--\r\n",
    ],
)
async def test_a_malformed_form_is_refused_and_nothing_stays(
    tmp_path: Path, body: str | bytes
) -> None:
    async with serving(tmp_path) as server:
        status, text = await server.send(body)
        assert (status, text) == (400, b"The body is not valid form data.")
        assert server.left() == []


@pytest.mark.parametrize("kind", ["application/json", "multipart/mixed; boundary=b", "nonsense"])
async def test_another_type_of_body_is_refused(tmp_path: Path, kind: str) -> None:
    async with serving(tmp_path) as server:
        reader, writer = await server.connect()
        writer.write(head(2, kind) + b"{}")
        assert (await reader.readline()).split()[1] == b"415"
        writer.close()


async def test_a_boundary_is_required(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        reader, writer = await server.connect()
        writer.write(head(2, "multipart/form-data") + b"xx")
        assert (await reader.readline()).split()[1] == b"400"
        writer.close()


async def test_a_body_that_comes_too_slowly_is_refused_and_nothing_stays(tmp_path: Path) -> None:
    async with serving(tmp_path, UploadLimits(seconds=0.05)) as server:
        assert (await server.send(PART.format(FILE, "hello"), 1000))[0] == 408
        assert server.left() == []


async def test_a_client_that_leaves_is_a_lost_connection_and_nothing_stays(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path) as server:
        _, writer = await server.connect()
        writer.write(head(1000) + PART.format(FILE, "hello").encode())
        await server.began.wait()
        writer.transport.abort()
        assert isinstance(await server.ended, ConnectionResetError)
        assert server.left() == []


async def test_a_full_disk_is_the_server_s_error_and_nothing_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: object, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pattern, "_write", full)
    async with serving(tmp_path) as server:
        assert (await server.send(PART.format(FILE, "hello") + END))[0] == 500
        assert server.left() == []


async def test_a_cancelled_upload_waits_for_its_write_before_it_removes_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, writing = threading.Event(), threading.Event()
    ended: list[bool] = []

    def slow(file: object, data: bytes) -> None:
        writing.set()
        gate.wait(5)
        ended.append(True)

    monkeypatch.setattr(pattern, "_write", slow)
    async with serving(tmp_path, UploadLimits(seconds=0.05)) as server:
        sending = asyncio.create_task(server.send(PART.format(FILE, "hello") + END))
        assert await asyncio.to_thread(writing.wait, 5)
        await asyncio.sleep(0.1)  # beyond the deadline
        assert server.left() != []
        gate.set()
        assert (await sending)[0] == 408
        assert server.left() == []
    assert ended == [True]


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("report.pdf", "report.pdf"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\me\\photo (1).jpg", "photo (1).jpg"),
        (".htaccess", "htaccess"),
        ("a\0b\r\nc.txt", "a_b__c.txt"),
        ("Übersicht.pdf", "Übersicht.pdf"),
        ("U\u0308bersicht.pdf", "Übersicht.pdf"),
        ("x" * 300 + ".jpeg", "x" * 80 + ".jpeg"),
        ("x" * 300, "x" * 80),
        ("..", "file"),
        ("", "file"),
    ],
)
def test_a_name_is_made_safe(name: str, safe: str) -> None:
    assert safe_name(name) == safe


async def test_the_wiring_of_the_docstring_works() -> None:
    names = {"web": web, "uploads": uploads, "UploadLimits": UploadLimits}
    exec(dedent((pattern.__doc__ or "").split("Wiring::")[1].split("Needs:")[0]), names)  # noqa: S102
    app = web.Application()
    app.router.add_post("/", names["handler"])  # type: ignore[arg-type]  # it comes out of exec
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    data = aiohttp.FormData(quote_fields=False)
    data.add_field("f", b"hello", filename="dir/a.txt")
    async with aiohttp.request("POST", f"http://{host}:{port}/", data=data) as response:
        assert await response.text() == "a.txt: 5"
    await runner.cleanup()
