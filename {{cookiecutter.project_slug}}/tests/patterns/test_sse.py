import asyncio
import math
import re
import socket
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, suppress

import aiohttp
import pytest
from aiohttp import web

from {{cookiecutter.package_name}}.patterns import sse as pattern
from {{cookiecutter.package_name}}.patterns.sse import Streams, sse_chunk


class News:
    """Streams behind a real server, with the settings of production, and a source of one topic."""

    def __init__(self, **options: object) -> None:
        self.streams = Streams(**options)  # type: ignore[arg-type]  # a test names the ones it needs
        self.sends: list[Callable[[bytes], None]] = []
        self.asked: list[str | None] = []
        self.backlog: tuple[Iterable[bytes], str, bool] = ([], "7-0", False)
        self.expires_at = math.inf
        self.url = ""
        self.runner: web.AppRunner | None = None

    @asynccontextmanager
    async def source(
        self, send: Callable[[bytes], None], after: str | None
    ) -> AsyncIterator[tuple[Iterable[bytes], str, bool]]:
        self.asked.append(after)
        self.sends.append(send)
        try:
            yield self.backlog
        finally:
            self.sends.remove(send)

    async def handler(self, request: web.Request) -> web.StreamResponse:
        return await self.streams.serve(request, self.source, self.expires_at)

    async def disconnected(self) -> None:
        assert self.runner is not None
        assert self.runner.server is not None
        server = self.runner.server
        await until(lambda: not server.connections)

    def publish(self, text: bytes) -> None:
        chunk = sse_chunk(text)
        for send in tuple(self.sends):
            send(chunk)

    async def raw(self) -> socket.socket:
        """A client of few bytes that reads what it is told to read, if at all."""
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.setblocking(False)
        loop, seen = asyncio.get_running_loop(), len(self.asked)
        host, _, port = self.url.removeprefix("http://").removesuffix("/news").partition(":")
        await loop.sock_connect(connection, (host, int(port)))
        await loop.sock_sendall(connection, b"GET /news HTTP/1.1\r\nHost: h\r\n\r\n")
        await until(lambda: len(self.asked) > seen)
        return connection


@asynccontextmanager
async def serving(news: News, *, cancel: bool = False) -> AsyncIterator[aiohttp.ClientSession]:
    app = web.Application()
    app.router.add_get("/news", news.handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None, handler_cancellation=cancel)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    news.runner = runner
    news.url = f"{site.name}/news"
    async with aiohttp.ClientSession() as session:
        yield session
    await runner.cleanup()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  # the other end of a socket has no event
            await asyncio.sleep(0.001)


async def block(response: aiohttp.ClientResponse) -> bytes:
    return await response.content.readuntil(b"\n\n")


@pytest.mark.parametrize("data", [b"a\nb", b"a\rb", b"a\r\nb"])
def test_data_is_split_at_every_line_ending(data: bytes) -> None:
    assert sse_chunk(data) == b"data: a\ndata: b\n\n"


def test_a_chunk_has_its_fields_in_order() -> None:
    assert sse_chunk(b"{}", id="1-0", event="x") == b"id: 1-0\nevent: x\ndata: {}\n\n"


@pytest.mark.parametrize("bad", ["a\nb", "a\rb", "a\0b"])
def test_an_id_or_a_name_cannot_begin_another_field(bad: str) -> None:
    with pytest.raises(ValueError, match="no line ending"):
        sse_chunk(b"", id=bad)
    with pytest.raises(ValueError, match="no line ending"):
        sse_chunk(b"", event=bad)


async def test_a_stream_opens_at_once_with_retry_position_and_comment() -> None:
    news = News(retry=2.0)
    async with serving(news) as session, session.get(news.url) as response:
        assert await block(response) == b"retry: 2000\n: open\nid: 7-0\n\n"
        assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert response.headers["X-Accel-Buffering"] == "no"
        assert response.headers["Connection"] == "close"
        assert "no-transform" in response.headers["Cache-Control"]


async def test_a_stream_is_never_compressed() -> None:
    news = News()
    async with serving(news) as session:
        headers = {"Accept-Encoding": "gzip, deflate, br"}
        async with session.get(news.url, headers=headers) as response:
            assert "Content-Encoding" not in response.headers


async def test_events_arrive_at_all_streams_in_order() -> None:
    news = News()
    async with serving(news) as session:
        responses = [await session.get(news.url) for _ in range(4)]
        for response in responses:
            await block(response)
        for n in range(20):
            news.publish(b"%d" % n)
        for response in responses:
            assert [await block(response) for _ in range(20)] == [
                b"data: %d\n\n" % n for n in range(20)
            ]
            response.close()


async def test_the_last_event_id_resumes_before_what_is_new() -> None:
    news = News()
    news.backlog = ([sse_chunk(b"a"), sse_chunk(b"b")], "9-0", False)
    resume = {"Last-Event-ID": "8-0"}
    async with serving(news) as session, session.get(news.url, headers=resume) as response:
        news.publish(b"c")
        assert await block(response) == b"retry: 3000\n: open\n\n"
        assert [await block(response) for _ in range(3)] == [
            b"data: a\n\n",
            b"data: b\n\n",
            b"data: c\n\n",
        ]
    assert news.asked == ["8-0"]


async def test_a_reset_comes_before_what_is_left() -> None:
    news = News()
    news.backlog = ([sse_chunk(b"a")], "9-0", True)
    async with serving(news) as session, session.get(news.url) as response:
        await block(response)
        assert await block(response) == b"event: reset\ndata: {}\n\n"
        assert await block(response) == b"data: a\n\n"


async def test_a_reset_with_nothing_left_says_where_to_resume() -> None:
    news = News()
    news.backlog = ([], "9-0", True)
    resume = {"Last-Event-ID": "8-0"}
    async with serving(news) as session, session.get(news.url, headers=resume) as response:
        assert await block(response) == b"retry: 3000\n: open\nid: 9-0\n\n"
        assert await block(response) == b"event: reset\ndata: {}\n\n"


async def test_a_client_that_leaves_while_the_source_opens_is_no_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    news, requests = News(), list[web.Request]()
    plain, serve = news.source, news.handler

    async def noted(request: web.Request) -> web.StreamResponse:
        requests.append(request)
        return await serve(request)

    @asynccontextmanager
    async def late(
        send: Callable[[bytes], None], after: str | None
    ) -> AsyncIterator[tuple[Iterable[bytes], str, bool]]:
        async with plain(send, after) as backlog:
            await until(lambda: requests[0].transport is None)
            yield backlog

    news.source, news.handler = late, noted  # type: ignore[method-assign]  # stand-ins
    async with serving(news):
        peer = await news.raw()
        peer.close()
        await until(lambda: news.streams.open == 0)
        await news.disconnected()
    assert caplog.records == []


async def test_what_is_published_while_the_source_opens_follows_the_backlog() -> None:
    news = News()
    news.backlog = ([sse_chunk(b"a")], "9-0", False)
    plain = news.source

    @asynccontextmanager
    async def eager(
        send: Callable[[bytes], None], after: str | None
    ) -> AsyncIterator[tuple[Iterable[bytes], str, bool]]:
        async with plain(send, after) as backlog:
            send(sse_chunk(b"b"))
            yield backlog

    news.source = eager  # type: ignore[method-assign]  # a stand-in for this test
    async with serving(news) as session, session.get(news.url) as response:
        await block(response)
        assert [await block(response) for _ in range(2)] == [b"data: a\n\n", b"data: b\n\n"]


async def test_silence_is_filled_with_comments() -> None:
    news = News(comment=0.02)
    async with serving(news) as session, session.get(news.url) as response:
        await block(response)
        assert await block(response) == b": still here\n\n"
        assert await block(response) == b": still here\n\n"


async def test_head_is_answered_without_a_stream() -> None:
    news = News()
    async with serving(news) as session, session.head(news.url) as response:
        assert response.status == 200
        assert response.headers["Content-Type"].startswith("text/event-stream")
    assert news.asked == []


async def test_an_error_of_the_source_is_still_an_http_answer() -> None:
    @asynccontextmanager
    async def down(
        send: Callable[[bytes], None], after: str | None
    ) -> AsyncIterator[tuple[Iterable[bytes], str, bool]]:
        raise web.HTTPServiceUnavailable
        yield

    news = News()
    news.source = down  # type: ignore[method-assign]  # a stand-in for this test
    async with serving(news) as session, session.get(news.url) as response:
        assert response.status == 503
    assert news.streams.open == 0


@pytest.mark.parametrize("cancel", [False, True])
async def test_a_client_that_leaves_frees_everything_at_once(
    cancel: bool, caplog: pytest.LogCaptureFixture
) -> None:
    news = News()
    async with serving(news, cancel=cancel) as session:
        tasks = len(asyncio.all_tasks())
        closed, reset = await news.raw(), await news.raw()
        response = await session.get(news.url)
        await block(response)
        assert news.streams.open == 3
        closed.close()
        reset.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        reset.close()
        response.close()
        begun = time.monotonic()
        await until(lambda: news.streams.open == 0)
        assert time.monotonic() - begun < 1.0
        await until(lambda: len(asyncio.all_tasks()) <= tasks)
    assert news.sends == []
    assert caplog.records == []


async def test_a_client_that_left_before_its_turn_is_no_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    news, asked = News(), asyncio.Event()
    plain = news.handler

    async def late(request: web.Request) -> web.StreamResponse:
        asked.set()
        while request.transport is not None:  # noqa: ASYNC110  # this is the condition itself
            await asyncio.sleep(0.001)
        return await plain(request)

    news.handler = late  # type: ignore[method-assign]  # a stand-in for this test
    async with serving(news) as session:
        with suppress(TimeoutError):
            async with asyncio.timeout(0.02):
                await session.get(news.url)
    assert asked.is_set()
    assert news.asked == []
    assert caplog.records == []


async def test_a_reader_that_is_slow_for_a_while_still_gets_all_in_order() -> None:
    news = News(queue=10_000)
    async with serving(news) as session, session.get(news.url) as response:
        await block(response)
        sent = [b"%d" % n * 20_000 for n in range(200)]
        for text in sent:
            news.publish(text)
        for n in range(200):  # small ones, which would fit between the large ones
            assert await response.content.readexactly(len(sent[n]) + 8) == b"data: %s\n\n" % sent[n]
            news.publish(b"small %d" % n)
        for n in range(200):
            assert await block(response) == b"data: small %d\n\n" % n
    assert news.streams.dropped == 0


async def test_what_was_queued_arrives_without_anything_new_to_send() -> None:
    news = News(queue=10_000)
    async with serving(news) as session, session.get(news.url) as response:
        await block(response)
        for n in range(300):
            news.publish(b"%d" % n * 20_000)
        async with asyncio.timeout(5):
            for n in range(300):
                text = b"%d" % n * 20_000
                assert await response.content.readexactly(len(text) + 8) == b"data: %s\n\n" % text


async def test_what_would_have_to_wait_for_a_paused_transport_is_queued() -> None:
    news = News()
    async with serving(news):
        peer = await news.raw()
        (stream,) = news.streams.streams
        await until(lambda: stream.response is not None)
        connection = stream.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        stream.transport.write(b": " + b"x" * 100_000)
        while stream.transport.get_write_buffer_size() > 40_000:
            await asyncio.get_running_loop().sock_recv(peer, 4096)
        assert stream.transport.get_write_buffer_size() > 16_384
        news.publish(b"1")
        assert stream.queue == [sse_chunk(b"1")]
        peer.close()


async def test_a_client_that_keeps_up_needs_no_queue() -> None:
    news = News(queue=0)
    async with serving(news) as session, session.get(news.url) as response:
        await block(response)
        news.publish(b"1")
        assert await block(response) == b"data: 1\n\n"
    assert news.streams.dropped == 0


async def test_a_long_backlog_is_no_reason_to_drop_a_client() -> None:
    news = News(queue=4)
    news.backlog = ([sse_chunk(b"x" * 60_000)] * 200, "9-0", False)
    async with serving(news):
        peer = await news.raw()
        await until(lambda: all(stream.response is not None for stream in news.streams.streams))
        news.publish(b"1")
        assert news.streams.dropped == 0
        peer.close()


async def test_a_backlog_is_taken_no_faster_than_its_client_reads() -> None:
    news, taken = News(), list[bytes]()

    def missed() -> Iterator[bytes]:
        for number in range(200):
            taken.append(b"%d" % number * 30_000)
            yield sse_chunk(taken[-1])

    news.backlog = (missed(), "9-0", False)
    async with serving(news):
        peer, received = await news.raw(), bytearray()
        (stream,) = news.streams.streams
        await until(lambda: stream.response is not None)
        assert 0 < len(taken) < 200
        news.publish(b"after")
        async with asyncio.timeout(5):
            while b"data: after\n" not in received[-50:]:
                received += await asyncio.get_running_loop().sock_recv(peer, 2**20)
        peer.close()
    assert len(taken) == 200
    assert re.findall(rb"data: (\w+)\n", received) == [*taken, b"after"]


async def test_an_open_stream_keeps_no_headers_that_were_sent() -> None:
    news = News()
    async with serving(news) as session, session.get(news.url) as response:
        await block(response)
        (stream,) = news.streams.streams
        assert stream.response is not None
        assert not stream.response.headers


async def test_sending_to_a_connection_that_is_just_lost_raises_nothing() -> None:
    news = News()
    async with serving(news) as session, session.get(news.url) as response:
        await block(response)
        for stream in news.streams.streams:
            stream.transport.abort()
        news.publish(b"x")
        await until(lambda: news.streams.open == 0)


async def test_the_kernel_bounds_the_time_of_a_peer_that_vanished() -> None:
    news = News(comment=15.0)
    async with serving(news) as session, session.get(news.url):
        (stream,) = news.streams.streams
        connection = stream.transport.get_extra_info("socket")
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 30_000


async def test_a_stalled_reader_is_dropped_and_counted_and_delays_nobody() -> None:
    news = News(queue=4)
    async with serving(news) as session, session.get(news.url) as healthy:
        await block(healthy)
        stalled = await news.raw()
        while news.streams.dropped == 0:
            news.publish(b"x" * 60_000)
            await healthy.content.readexactly(60_008)
        await until(lambda: news.streams.open == 1)
        news.publish(b"after")
        assert await block(healthy) == b"data: after\n\n"
        stalled.close()
    assert news.streams.dropped == 1


async def test_a_stream_that_is_dropped_is_counted_once() -> None:
    news = News(queue=4)
    async with serving(news):
        stalled = await news.raw()
        await until(lambda: all(stream.response is not None for stream in news.streams.streams))
        for _ in range(200):  # in one pass of the loop: its connection is not lost yet
            news.publish(b"x" * 60_000)
        assert news.streams.dropped == 1
        await until(lambda: news.streams.open == 0)
        stalled.close()


async def test_comments_take_no_place_in_the_queue_of_a_slow_reader() -> None:
    news = News(queue=200, comment=0.001)
    async with serving(news):
        peer = await news.raw()
        (stream,) = news.streams.streams
        await until(lambda: stream.response is not None)
        for _ in range(150):
            news.publish(b"x" * 60_000)
        waiting, passed = len(stream.queue), asyncio.Event()
        assert waiting > 0
        asyncio.get_running_loop().call_later(0.05, passed.set)
        await passed.wait()
        assert len(stream.queue) == waiting
        peer.close()


async def test_an_open_stream_keeps_nothing_of_its_backlog() -> None:
    news = News()
    missed = [b"data: %d\n\n" % n for n in range(3)]
    news.backlog = (list(missed), "9-0", False)
    async with serving(news) as session, session.get(news.url) as response:
        news.backlog = ([], "9-0", False)
        assert [await block(response) for _ in range(4)][1:] == missed
        assert {sys.getrefcount(chunk) for chunk in missed} == {3}  # the list, `chunk`, the call
        assert [stream.backlog for stream in news.streams.streams] == [pattern.NOTHING]


async def test_nothing_is_sent_to_a_stream_that_has_ended() -> None:
    news = News()
    async with serving(news) as session, session.get(news.url) as response:
        await block(response)
        draining = asyncio.create_task(news.streams.drain(5.0))
        await asyncio.sleep(0)
        news.publish(b"too late")
        assert b"late" not in await response.read()
        await draining


async def test_a_stream_whose_end_is_not_read_keeps_its_socket_for_a_moment_only() -> None:
    news = News(queue=10_000, close_timeout=0.05)
    async with serving(news, cancel=True):
        stalled = await news.raw()
        for _ in range(200):
            news.publish(b"x" * 60_000)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await news.disconnected()
        stalled.close()


@pytest.mark.parametrize("left", [0.05, -5.0])
async def test_a_stream_ends_cleanly_when_its_token_expires(left: float) -> None:
    news = News()
    news.expires_at = time.time() + left
    async with serving(news) as session, session.get(news.url) as response:
        assert await response.read() == b"retry: 3000\n: open\nid: 7-0\n\n"


async def test_a_drain_ends_every_stream_cleanly_each_with_its_own_retry() -> None:
    news = News()
    async with serving(news) as session:
        responses = [await session.get(news.url) for _ in range(8)]
        for response in responses:
            await block(response)
        news.publish(b"last")
        reads = asyncio.gather(*(response.read() for response in responses))
        await news.streams.drain(5.0)
        bodies = await reads
    found = [re.fullmatch(rb"data: last\n\nretry: (\d+)\n\n", body) for body in bodies]
    retries = {int(match[1]) for match in found if match}
    assert None not in found
    assert len(retries) > 1
    assert all(1000 <= retry <= 10_000 for retry in retries)


async def test_a_drain_aborts_those_who_do_not_read() -> None:
    news = News(queue=10_000, close_timeout=30.0)
    async with serving(news):
        stalled = [await news.raw() for _ in range(4)]
        for _ in range(200):
            news.publish(b"x" * 60_000)
        begun = time.monotonic()
        await news.streams.drain(0.2)
        assert 0.15 < time.monotonic() - begun < 1.0
        assert news.streams.open == 0
        for connection in stalled:
            connection.close()


async def test_who_connects_during_a_drain_is_sent_away_cleanly() -> None:
    news = News()
    async with serving(news) as session:
        await news.streams.drain(1.0)
        async with session.get(news.url) as response:
            assert re.search(rb"open\nid: 7-0\n\nretry: \d+\n\n$", await response.read())


async def test_the_wiring_of_the_docstring_works() -> None:
    news, app = News(), web.Application()
    names: dict[str, object] = {"app": app, "web": web, "Streams": Streams}
    wiring = (pattern.__doc__ or "").split("Wiring::\n\n")[1].split("\n\nNeeds")[0]
    exec(textwrap.dedent(wiring), {**names, "subscribe_to_news": news.source})  # noqa: S102
    news.handler = next(iter(app.router.routes())).handler  # type: ignore[method-assign, assignment]  # the block's
    async with serving(news) as session, session.get(news.url) as response:
        assert (await block(response)).startswith(b"retry:")
