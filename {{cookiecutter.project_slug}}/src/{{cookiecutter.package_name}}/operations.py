"""What operators see: health, and the numbers of every part in Prometheus' format."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from aiohttp import web
from prometheus_client import CollectorRegistry

from .patterns.backpressure import Permits, never_shed
from .patterns.client_session import ClientStats
from .patterns.health import livez, readyz
from .patterns.jwt_auth import public
from .patterns.loop_watch import LoopLag
from .patterns.metrics import metrics_page, show_number
from .patterns.sse import Streams
from .patterns.websocket_hub import Hub

__all__ = ["PROBES", "Counted", "operation_routes", "show_numbers"]

PROBES = frozenset({"/livez", "/readyz"})


def operation_routes(
    registry: CollectorRegistry, checks: Mapping[str, Callable[[], bool]]
) -> list[web.RouteDef]:
    """Health and metrics, for the public port or for the admin port; overload refuses none."""
    return [
        web.get("/livez", public(never_shed(livez))),
        web.get("/readyz", public(never_shed(readyz(checks)))),
        web.get("/metrics", public(never_shed(metrics_page(registry)))),
    ]


@dataclass(frozen=True, slots=True)
class Counted:
    """The parts that keep numbers of their own."""

    permits: Permits
    hub: Hub
    streams: Streams
    stats: ClientStats = field(default_factory=ClientStats)
    lag: LoopLag = field(default_factory=LoopLag)


def show_numbers(registry: CollectorRegistry, counted: Counted) -> None:
    """Add the numbers that the parts keep to those of the metrics middleware."""
    permits, hub, streams = counted.permits, counted.hub, counted.streams
    stats, lag = counted.stats, counted.lag
    show = partial(show_number, registry)
    show("requests_shed_total", "Refused, by reason.", lambda: permits.shed)
    show("requests_limit", "Requests at once, at most.", lambda: permits.limit.limit)
    show("streams_open", "Open streams.", lambda: {"ws": hub.open, "sse": streams.open})
    show(
        "slow_clients_dropped_total",
        "Streams that were closed because their client did not keep up.",
        lambda: {"ws": hub.dropped, "sse": streams.dropped},
    )
    show("upstream_calls_total", "Outbound calls by outcome.", lambda: stats.calls)
    show("upstream_pool_waits_total", "Calls that had to wait.", lambda: stats.pool_waits)
    show("upstream_pool_waiting", "Calls waiting for a connection.", lambda: stats.pool_waiting)
    show("event_loop_lag_seconds", "How late the event loop ran.", lambda: lag.worst)
    show("event_loop_blocked_total", "Times the event loop was blocked.", lambda: lag.blocked)
