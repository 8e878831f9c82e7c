"""Slow readers: who takes nothing of an answer for half a minute is cut off.

aiohttp waits for such a peer for ever, and keeps what it has not read: a thousand requests for an
answer of 1 MiB, none of them read, are a gigabyte. No handler knows of it, nor any limit: its
handler has returned.

Wiring::

    await runner.setup()
    cut_off_slow_readers(runner.server)

Needs: aiohttp>=3.14.4
Order: after the runner's setup, before the first site starts.
Not: a least speed; a peer that takes some bytes now and then is waited for. TCP on Linux alone: on
    other systems, and Unix sockets, nothing is cut off.
"""

import asyncio
import socket
from contextlib import suppress

from aiohttp import web

__all__ = ["cut_off_slow_readers"]


def cut_off_slow_readers(server: web.Server, seconds: float = 30.0) -> None:
    """Abort each connection to come when bytes sent on it wait so long for an acknowledgement.

    The kernel does it (TCP_USER_TIMEOUT, RFC 5482), so it costs a call a connection. What waits to
    be sent raises ConnectionResetError, as if the client had left.
    """
    made = server.connection_made

    def connection_made(handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        made(handler, transport)
        with suppress(OSError, AttributeError):
            option, limit = socket.TCP_USER_TIMEOUT, int(seconds * 1000)
            transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, option, limit)

    server.connection_made = connection_made  # type: ignore[method-assign]  # the only place to
