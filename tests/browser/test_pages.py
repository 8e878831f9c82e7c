"""The pages in a real browser: headless Chromium against the running service.

Needs Chromium (Debian, Ubuntu: `apt-get install chromium`); without it these tests fail.
"""

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urljoin

import pytest
from conftest import ROOT, Bake
from playwright.sync_api import Browser, Locator, Page, Route, expect, sync_playwright
from test_generated import SECRET, Installed, path_with

NAMES = ("chromium", "chromium-browser", "google-chrome")
FOUND = next(filter(None, map(shutil.which, NAMES)), None)
OPTIONS = """--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync
    --disable-background-networking --disable-component-update""".split()
STREAMS = ["socket", "events"]
# The browser's own lines about connections that are refused or broken off: no page can avoid them.
GONE = r"net::ERR_(CONNECTION_REFUSED|INCOMPLETE_CHUNKED_ENCODING)"


@dataclass
class Running:
    """The service as a process on one port, which it keeps when it is started again."""

    installed: Installed
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self, **env: str) -> None:
        given = {"APP_ENV": "dev", "APP_PORT": str(self.port), "APP_JWT_SECRET": SECRET}
        self.process = subprocess.Popen(
            [f"{self.installed.venv}/bin/python", "-m", "my_service"],
            cwd=self.installed.baked.path,
            env={**os.environ, "PYTHONPATH": "src", **given, **env},
            stdout=subprocess.DEVNULL,
        )
        for _ in range(300):
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            assert self.process.poll() is None
            time.sleep(0.1)
        pytest.fail("the service does not listen")

    def stop(self, number: int = signal.SIGTERM) -> None:
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait(20)

    def json(self, path: str) -> Any:
        with urllib.request.urlopen(self.base + path, timeout=10) as response:  # noqa: S310
            return json.load(response)


@dataclass
class Tab:
    """A page, what it asked for, and the errors on its console."""

    page: Page
    room: str = field(default_factory=lambda: secrets.token_hex(8))
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def forgive(self, errors: str) -> None:
        self.errors[:] = [error for error in self.errors if not re.search(errors, error)]

    def lines(self, stream: str, kind: str = "message") -> list[str]:
        lines = self.page.locator(f"#{stream} li.{kind}").all_inner_texts()
        return [line.partition("demo: ")[2] if kind == "message" else line for line in lines]

    def state(self, stream: str) -> Locator:
        return self.page.locator(f"#{stream} output")

    def wait_until_open(self) -> None:
        for stream in STREAMS:
            expect(self.state(stream)).to_have_text("open", timeout=20_000)

    def send(self, text: str, by: str = "POST") -> None:
        field = self.page.get_by_label("Message")
        field.fill(text)
        self.page.get_by_role("button", name=f"Send by {by}").click()
        expect(field).to_have_value("")

    def token(self) -> str:
        return self.page.locator("meta[name=token]").get_attribute("content") or ""

    def post(self, text: str) -> None:
        """Send a message past the page."""
        url = urljoin(self.page.url, f"/api/v1/rooms/{self.room}/messages")
        headers = {"Authorization": f"Bearer {self.token()}"}
        answer = self.page.request.post(url, data={"text": text}, headers=headers)
        assert answer.status == 201

    def wait_for(self, text: str, streams: list[str] = STREAMS) -> None:
        for stream in streams:
            expect(self.page.locator(f"#{stream} li.message").last).to_contain_text(text)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    if FOUND is None:
        pytest.fail("these tests need Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=FOUND, args=OPTIONS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def installed(bake: Bake, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    baked = bake()
    lock = hashlib.sha256(baked.read("requirements/dev.txt").encode()).hexdigest()[:8]
    env = {"PATH": path_with(True, tmp_path_factory.mktemp("bin")), "PYTHON": sys.executable}
    installed = Installed(baked, ROOT / "build" / f"service-browser-{lock}", env)
    done = installed.make("install")
    assert done.returncode == 0, done.stdout + done.stderr
    return installed


@pytest.fixture(scope="module")
def running(installed: Installed) -> Iterator[Running]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        running = Running(installed, free.getsockname()[1])
    yield running
    running.stop(signal.SIGKILL)


@pytest.fixture
def service(running: Running) -> Running:
    """The service, started again where a test has stopped it."""
    if running.process is None or running.process.poll() is not None:
        running.start()
    return running


@pytest.fixture
def tab(chromium: Browser, service: Running) -> Iterator[Tab]:
    """A tab of its own profile, whose console must stay free of errors and warnings."""
    context = chromium.new_context()
    tab = Tab(context.new_page())
    page, kinds = tab.page, ("error", "warning")
    page.on("console", lambda m: tab.errors.append(m.text) if m.type in kinds else None)
    page.on("pageerror", lambda error: tab.errors.append(str(error)))
    page.on("request", lambda request: tab.requests.append(request.url))
    yield tab
    context.close()
    assert tab.errors == []


@pytest.fixture
def demo(tab: Tab, service: Running) -> Tab:
    """The demo page, in a room of its own."""
    tab.page.goto(f"{service.base}/?room={tab.room}")
    tab.wait_until_open()
    return tab


@pytest.mark.parametrize("by", ["POST", "WebSocket"])
def test_both_streams_receive_what_is_sent(demo: Tab, by: str) -> None:
    demo.send("hello", by)
    demo.wait_for("hello")
    assert [demo.lines(stream) for stream in STREAMS] == [["hello"], ["hello"]]


@pytest.mark.parametrize("stream", STREAMS)
def test_a_stream_that_was_cut_comes_back_for_what_it_missed(demo: Tab, stream: str) -> None:
    (other,) = {*STREAMS} - {stream}
    demo.send("one")
    demo.wait_for("one")
    demo.page.locator(f"#{stream}").get_by_role("button", name="Cut").click()
    expect(demo.state(stream)).to_contain_text(re.compile(r"Cut; back in \d\.\d s"))
    for text in ("two", "three"):
        demo.send(text)
        demo.wait_for(text, [other])
    demo.wait_until_open()
    demo.send("four")
    demo.wait_for("four")
    assert demo.lines(stream) == demo.lines(other) == ["one", "two", "three", "four"]
    assert any("open again" in line for line in demo.lines(stream, "note"))


def test_a_new_tab_shows_what_was_said_before(demo: Tab) -> None:
    texts = [f"message {number}" for number in range(105)]  # more than a page of the history
    for text in texts:
        demo.post(text)
    demo.page.reload()
    demo.wait_for(texts[-1])
    assert demo.lines("socket") == demo.lines("events") == texts


def test_what_arrives_while_the_history_is_read_is_shown_once(demo: Tab) -> None:
    def late(route: Route) -> None:
        demo.post("both")  # in the history and on the socket
        response = route.fetch()
        demo.post("socket")  # on the socket, while the page still waits for the history
        route.fulfill(response=response)

    demo.post("before")
    demo.wait_for("before")
    demo.page.route("**/messages?*", late, times=1)
    demo.page.locator("#socket").get_by_role("button", name="Cut").click()
    demo.wait_for("socket")
    demo.post("after")
    demo.wait_for("after")
    assert demo.lines("socket") == demo.lines("events") == ["before", "both", "socket", "after"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_a_restart_loses_and_doubles_nothing(demo: Tab, service: Running, number: int) -> None:
    demo.send("one")
    demo.send("two", "WebSocket")
    demo.wait_for("two")
    service.stop(number)
    for stream in STREAMS:
        expect(demo.state(stream)).to_contain_text("back in")
    service.start()
    demo.post("three")  # most likely before the page is back
    demo.wait_until_open()
    demo.send("four")
    demo.wait_for("four")
    assert demo.lines("socket") == demo.lines("events") == ["one", "two", "three", "four"]
    assert any("reset" in line for line in demo.lines("events", "note"))
    ended = "The server is stopping" if number == signal.SIGTERM else "The connection is lost"
    assert ended in demo.lines("socket", "note")
    demo.forgive(GONE)


def test_a_server_that_stops_is_seen_to_stop(demo: Tab, service: Running) -> None:
    service.stop()
    for stream in STREAMS:
        expect(demo.page.locator(f"#{stream} li.note")).to_contain_text("The server is stopping")
        expect(demo.state(stream)).to_contain_text(re.compile(r"; back in \d+\.\d s"))
    demo.forgive(GONE)


def test_a_token_that_is_no_longer_good_ends_the_reconnecting(demo: Tab, service: Running) -> None:
    service.stop()
    service.start(APP_JWT_SECRET=SECRET[::-1])
    for stream in STREAMS:
        expect(demo.state(stream)).to_contain_text("reload the page", timeout=20_000)
    service.stop()
    demo.forgive(rf"{GONE}|status of 401")


def test_the_pages_ask_nobody_else_for_anything(demo: Tab, service: Running) -> None:
    demo.page.goto(f"{service.base}/docs")
    expect(demo.page.locator(".opblock").first).to_be_visible()
    assert [url for url in demo.requests if not url.startswith((service.base, "data:"))] == []
    assert len(demo.requests) > 8


def test_the_documentation_lists_every_operation(tab: Tab, service: Running) -> None:
    tab.page.goto(f"{service.base}/docs")
    expect(tab.page.locator(".opblock").first).to_be_visible()
    blocks = tab.page.locator(".opblock")
    listed = [
        (
            block.locator(".opblock-summary-method").inner_text().lower(),
            block.locator(".opblock-summary-path").get_attribute("data-path"),
        )
        for block in blocks.all()
    ]
    document = service.json("/openapi.json")
    paths = document["paths"].items()
    assert sorted(listed) == sorted((method, path) for path, each in paths for method in each)
    assert ("get", "/api/v1/rooms/{room}/messages") in listed


def test_an_operation_can_be_executed_from_the_documentation(tab: Tab, service: Running) -> None:
    page = tab.page
    page.goto(service.base)
    token = tab.token()
    page.goto(f"{service.base}/docs")
    page.get_by_role("button", name="Authorize").first.click()
    page.locator(".auth-container input").fill(token)
    page.locator(".auth-btn-wrapper").get_by_role("button", name="Apply").click()
    page.locator(".auth-btn-wrapper").get_by_role("button", name="Close").click()
    block = page.locator(".opblock-post", has_text="/messages")
    block.locator(".opblock-summary-control").click()
    block.get_by_role("button", name="Try it out").click()
    block.locator("input[placeholder=room]").fill("docs")
    block.get_by_role("button", name="Execute").click()
    expect(block.locator(".live-responses-table .response-col_status").last).to_contain_text("201")
    expect(block.locator(".live-responses-table")).to_contain_text('"room": "docs"')
