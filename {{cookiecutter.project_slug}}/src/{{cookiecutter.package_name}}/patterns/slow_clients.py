"""Slow clients: who sends no whole request, or takes nothing of an answer, is cut off.

aiohttp waits for the first as long as for a connection that is kept alive, and for the second for
ever, with what it has not read: a thousand requests for an answer of 1 MiB, none of them read, are
a gigabyte. No handler knows, and no limit: these have begun, or have ended.

Wiring::

    await runner.setup()
    cut_off_slow_clients(runner.server)

Needs: aiohttp>=3.14.4
Order: after the runner's setup and whatever else stands before its connections (early_refusal.py),
    before the first site starts.
Not: bodies (body.py), a least speed, or the heads of a connection's later requests, which have the
    keep-alive time. Unread answers are cut off on TCP and Linux alone.
"""

import asyncio
import socket
from contextlib import suppress
from typing import Any

from aiohttp import web

__all__ = ["cut_off_slow_clients"]


def cut_off_slow_clients(server: web.Server, *, head: float = 10.0, unread: float = 30.0) -> None:
    """Bound each connection to come; both times are in seconds.

    It is closed when its first request has no whole head after `head`, and aborted when bytes sent
    on it wait for an acknowledgement for `unread` (the kernel does that: TCP_USER_TIMEOUT, RFC
    5482), so that whatever waits to be sent raises ConnectionResetError, as if the client had left.
    """
    made = server.connection_made

    def connection_made(handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        made(handler, transport)
        with suppress(OSError, AttributeError):
            option, limit = socket.TCP_USER_TIMEOUT, int(unread * 1000)
            transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, option, limit)
        transport.set_protocol(_FirstHead(transport, head))  # type: ignore[arg-type]  # see there

    server.connection_made = connection_made  # type: ignore[method-assign]  # the only place to


class _FirstHead:
    """Stands before a connection's protocol, until it has seen the end of a head."""

    def __init__(self, transport: asyncio.Transport, seconds: float) -> None:
        self._transport = transport
        self._protocol: Any = transport.get_protocol()
        self._timer = asyncio.get_running_loop().call_later(seconds, transport.close)
        self._last = b""  # in which the end may have begun

    def __getattr__(self, name: str) -> object:
        return getattr(self._protocol, name)  # what a protocol has that this one lacks

    def data_received(self, data: bytes) -> None:
        seen = self._last + data
        self._last = seen[-3:]
        if b"\r\n\r\n" in seen:
            self._timer.cancel()
            self._transport.set_protocol(self._protocol)
        self._protocol.data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        self._protocol.connection_lost(exc)
