"""What `create_app` provides to handlers: `request.app[BROKER]` and so on, each of a known type."""

from collections.abc import Callable

from aiohttp import web

from ..patterns.broker import Broker
from ..patterns.sse import Streams
from ..patterns.stream_tickets import StreamTickets
from ..patterns.websocket_hub import Hub

__all__ = ["BROKER", "DEV_TOKEN", "HUB", "STREAMS", "TICKETS"]

BROKER: web.AppKey[Broker] = web.AppKey("broker")
HUB = web.AppKey("hub", Hub)
STREAMS = web.AppKey("streams", Streams)
TICKETS = web.AppKey("tickets", StreamTickets)
DEV_TOKEN: web.AppKey[Callable[..., str]] = web.AppKey("dev_token")  # in development alone
