"""Serve until SIGTERM or SIGINT, then stop without breaking a promise to any client.

Once aiohttp's own cleanup begins it drops every inbound byte, waits its timeout twice, and an
exception in `on_shutdown` skips the rest. So all the waiting is done here, before that cleanup.

Wiring::

    drain = Drain(delay=5, timeout=10, streams=[end_streams])
    app.middlewares.append(drain.count)
    app.on_response_prepare.append(drain.close_connections)

    def main() -> None:
        asyncio.run(drain.serve(app, Listen(port=8080)))

Needs: aiohttp>=3.14.4
Order: `count` where it sees every request that must finish; readiness asks `drain.draining`.
Not: several processes; they may share a socket that their supervisor gives them, see `Listen`.
"""

import asyncio
import inspect
import logging
import signal
import socket
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler

__all__ = ["Drain", "Listen"]

LOGGER = logging.getLogger(__name__)
LAST = 0.25  # seconds for what is cut off to leave; aiohttp waits them twice, and 0 for ever
CLOSED = 1.9  # seconds after `delay` + `timeout`, for a cleanup context that hangs
QUIET = 10  # rounds of 10 ms without a request, before the connections that are left are closed


@dataclass(frozen=True, slots=True, kw_only=True)
class Listen:
    """Where to listen, and how; `options` go to aiohttp's request handlers.

    `sock` is for processes that share one listening socket; `host` and `port` do not count then.
    `prepare` gets the runner once it is set up, before the first connection can come in.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    sock: socket.socket | None = None
    ssl_context: ssl.SSLContext | None = None
    backlog: int = 1024
    options: Mapping[str, object] = field(default_factory=dict[str, object])
    prepare: Callable[[web.AppRunner], object] = lambda runner: None


@dataclass(kw_only=True, eq=False)
class Drain:
    """How one process stops: within `delay` + `timeout` + 2 seconds, whatever its clients do.

    Each of `streams` is awaited with the seconds it may take. A second signal skips the waiting.
    """

    delay: float = 5.0  # seconds of serving on, until balancers have seen the readiness
    timeout: float = 10.0  # seconds for requests and streams to end
    streams: Sequence[Callable[[float], Awaitable[None]]] = ()
    draining: bool = field(default=False, init=False)
    in_flight: int = field(default=0, init=False)
    _quiet: int = field(default=0, init=False)  # rounds
    _deadline: float | None = field(default=None, init=False)
    _asked: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    _hurry: asyncio.Event = field(default_factory=asyncio.Event, init=False)

    @web.middleware
    async def count(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self.in_flight += 1
        try:
            return await handler(request)
        finally:
            self.in_flight -= 1

    async def close_connections(self, request: web.Request, response: web.StreamResponse) -> None:
        """`on_response_prepare` callback: what a draining server answers ends the connection."""
        if self.draining and response.status != 101:
            self._quiet = 0
            response.headers["Connection"] = "close"
            response.force_close()

    def stop(self) -> None:
        """What a signal does: begin to drain; when that has begun, skip its waiting."""
        (self._hurry if self.draining else self._asked).set()
        self.draining = True

    async def serve(
        self,
        app: web.Application,
        listen: Listen,
        *,
        admin: tuple[web.Application, Listen] | None = None,
        on_listening: Callable[[Sequence[str]], None] = lambda urls: None,
    ) -> None:
        """Serve until a signal has been obeyed; `on_listening` gets the URLs, the admin's last.

        Raises OSError when an address is taken, TypeError for an unknown option, and what starting
        or stopping the applications raises; in each case after all cleanup has run.
        """
        async with AsyncExitStack() as stack:
            loop = asyncio.get_running_loop()
            for number in (signal.SIGTERM, signal.SIGINT):
                with suppress(NotImplementedError):  # on Windows the interpreter's Ctrl-C has to do
                    loop.add_signal_handler(number, self.stop)
                    stack.callback(loop.remove_signal_handler, number)
            # First in, last out: the admin port answers until everything else has ended.
            others = [await stack.enter_async_context(self._running(*admin))] if admin else []
            runner = await stack.enter_async_context(self._running(app, listen))
            on_listening([site.name for each in (runner, *others) for site in each.sites])
            await self._asked.wait()
            self._deadline = loop.time() + self.delay + self.timeout + CLOSED
            # 1. Readiness says no, and new connections are still served: balancers lag behind.
            with suppress(TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), self.delay)
            # 2. Nobody new.
            await _close_listeners(runner)
            # 3. Streams are ended, requests and uploads end, while their bytes still arrive.
            ending = asyncio.create_task(self._end(runner.server))
            hurry = asyncio.create_task(self._hurry.wait())
            await asyncio.wait({ending, hurry}, timeout=self.timeout, return_when="FIRST_COMPLETED")
            ending.cancel()
            hurry.cancel()
            await asyncio.wait({ending, hurry})
            # 4. What is left is cut off, and the contexts close: see _running.

    async def _end(self, server: web.Server | None) -> None:
        ends = (end(self.timeout / 2) for end in self.streams)
        for error in await asyncio.gather(*ends, return_exceptions=True):
            if isinstance(error, Exception):
                LOGGER.error("streams did not end", exc_info=error)
        # A connection that has just come, or is used again and again, has a request on its way.
        while self.in_flight or (self._quiet < QUIET and _transports(server)):
            await asyncio.sleep(0.01)
            self._quiet = 0 if self.in_flight or _unsent(server) else self._quiet + 1

    @asynccontextmanager
    async def _running(
        self, app: web.Application, listen: Listen
    ) -> AsyncGenerator[web.AppRunner, None]:
        known = {*inspect.signature(web.RequestHandler).parameters, "handler_cancellation"}
        if unknown := listen.options.keys() - known:
            # aiohttp would drop all options of every connection, with a warning for each.
            raise TypeError(f"unknown options: {', '.join(sorted(unknown))}")
        options: dict[str, Any] = {"keepalive_timeout": 75.0, "access_log": None, **listen.options}
        runner = web.AppRunner(app, handle_signals=False, **options)
        # The steps of runner.cleanup(), last one first, but each runs whatever the others do.
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._cleanup, app)
            await runner.setup()
            assert runner.server is not None  # noqa: S101  # after setup() there is one
            stack.push_async_callback(_cut_off, runner.server)
            stack.push_async_callback(lambda: asyncio.wait_for(app.shutdown(), 2 * LAST))
            stack.callback(runner.server.pre_shutdown)
            stack.push_async_callback(_close_listeners, runner)
            listen.prepare(runner)
            how: dict[str, Any] = {"ssl_context": listen.ssl_context, "backlog": listen.backlog}
            if listen.sock is None:
                await web.TCPSite(runner, listen.host, listen.port, **how).start()
            else:
                await web.SockSite(runner, listen.sock, **how).start()
            yield runner

    async def _cleanup(self, app: web.Application) -> None:
        # When a context hangs, the TimeoutError shows where, and aiohttp goes on with the others.
        async with asyncio.timeout_at(self._deadline):
            await app.cleanup()


async def _close_listeners(runner: web.AppRunner) -> None:
    for site in runner.sites:
        await site.stop()
    await asyncio.sleep(0.01)  # until what has been accepted is a connection of the server


async def _cut_off(server: web.Server) -> None:
    transports = _transports(server)
    await server.shutdown(LAST)
    for transport in transports:
        transport.abort()  # aiohttp only closes, and that waits for a peer that does not read
    await asyncio.sleep(0.01)  # who was cancelled leaves before the contexts close


def _unsent(server: web.Server | None) -> bool:
    # What a slow client has yet to read, long after its handler has returned.
    return any(transport.get_write_buffer_size() for transport in _transports(server))


def _transports(server: web.Server | None) -> list[asyncio.Transport]:
    connections = server.connections if server is not None else []
    return [c.transport for c in connections if c.transport is not None]
