"""Metrics: requests by method, route template and status, their latency, and any number you have.

Counting by path makes a series of every id; counting after `await handler(request)` misses raised
errors and cancelled handlers.

Wiring::

    registry = CollectorRegistry()
    app.middlewares.append(metrics(registry))
    show_number(registry, "open_streams", "Open streams.", lambda: 0)
    app.router.add_get("/metrics", metrics_page(registry))

Needs: aiohttp>=3.14.4, prometheus-client>=0.22
Order: inside the request log, outside errors. What backpressure refuses further out is not seen.
Not: several processes behind one port; give each its own admin port to be scraped on.
"""

import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import accumulate

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

__all__ = ["metrics", "metrics_page", "show_number"]

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # seconds


def metrics(
    registry: CollectorRegistry, *, now: Callable[[], float] = time.perf_counter
) -> Middleware:
    """Count every request and how long it took, streams (prepared by their handler) without time.

    Status 499 is a client that left; an exception counts as what aiohttp makes of it. Routes that
    do not exist share the label `unmatched`, and methods that do not exist share `other`.
    """
    counted = _Requests()
    registry.register(counted)

    @web.middleware
    async def measure(request: web.Request, handler: Handler) -> web.StreamResponse:
        begun = now()
        status, streamed = 499, False
        counted.in_flight += 1
        try:
            response = await handler(request)
            status, streamed = response.status, response.prepared
        except web.HTTPException as error:
            status = error.status
            raise
        except Exception as error:
            if not isinstance(error, ConnectionResetError):
                status = 504 if isinstance(error, TimeoutError) else 500
            raise
        finally:
            counted.in_flight -= 1
            resource = request.match_info.route.resource
            route = resource.canonical if resource is not None else "unmatched"
            method = request.method if request.method in hdrs.METH_ALL else "other"
            counted.observe((method, route, status), None if streamed else now() - begun)
        return response

    return measure


class _Requests(Collector):
    """Counted here and told at a scrape: prometheus_client's own counters are safe in threads,
    which is of no use in an event loop and takes 3 µs a request, in a hot loop.
    """

    def __init__(self) -> None:
        self.in_flight = 0
        self._series: dict[tuple[str, str, int], _Series] = {}

    def observe(self, names: tuple[str, str, int], seconds: float | None) -> None:
        series = self._series.get(names) or self._series.setdefault(names, _Series())
        series.count += 1
        if seconds is not None:
            series.seconds += seconds
            series.buckets[bisect_left(BUCKETS, seconds)] += 1

    def collect(self) -> Iterable[Metric]:
        text, labels = "Time until answered; no streams.", ("method", "route", "status")
        total = CounterMetricFamily("http_requests", "Requests answered.", labels=labels)
        latency = HistogramMetricFamily("http_request_duration_seconds", text, labels=labels)
        for (method, route, status), series in self._series.items():
            values = [method, route, str(status)]
            total.add_metric(values, series.count)
            sums = zip((*map(str, BUCKETS), "+Inf"), accumulate(series.buckets), strict=True)
            latency.add_metric(values, list(sums), series.seconds)
        yield GaugeMetricFamily("http_requests_in_flight", "Begun, not answered.", self.in_flight)
        yield total
        yield latency


@dataclass(slots=True)
class _Series:
    count: int = 0
    seconds: float = 0.0
    buckets: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))


def show_number(
    registry: CollectorRegistry,
    name: str,
    text: str,
    read: Callable[[], float | Mapping[str, float]],
    label: str = "kind",
) -> None:
    """Show what `read` returns at each scrape; of a mapping, one series a key under `label`.

    A name that ends in `_total` makes it a counter, which only rises; any other a gauge.
    """
    family = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily

    class Number(Collector):
        def collect(self) -> Iterable[Metric]:
            value = read()
            if isinstance(value, Mapping):
                metric = family(name, text, labels=[label])
                for key, number in value.items():
                    metric.add_metric([key], number)
            else:
                metric = family(name, text, value=value)
            yield metric

    registry.register(Number())


def metrics_page(registry: CollectorRegistry) -> Handler:
    """A handler that answers with everything in the registry, in Prometheus' text format."""

    async def page(request: web.Request) -> web.Response:
        """Everything in the registry, in Prometheus' text format."""
        return web.Response(
            body=generate_latest(registry), headers={hdrs.CONTENT_TYPE: CONTENT_TYPE_LATEST}
        )

    return page
