"""Metrics: requests by method, route template and status, their latency, and any number you have.

Counting by path makes a series of every id; counting after `await handler(request)` misses raised
errors and cancelled handlers. An observation costs an addition to a list, rendering waits for the
scrape: prometheus-client's own counters take a lock and cost ten times as much.

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


class _Requests(Collector):
    """Cells of plain numbers: of each series the buckets, then streams, then the sum of seconds."""

    def __init__(self) -> None:
        self.in_flight = 0
        self.cells: dict[tuple[str, str, int], list[float]] = {}

    def observe(self, key: tuple[str, str, int], seconds: float | None) -> None:
        cell = self.cells.get(key)
        if cell is None:
            cell = self.cells[key] = [0.0] * (len(BUCKETS) + 3)
        if seconds is None:
            cell[-2] += 1
        else:
            cell[bisect_left(BUCKETS, seconds)] += 1
            cell[-1] += seconds

    def collect(self) -> Iterable[Metric]:
        labels = ["method", "route", "status"]
        total = CounterMetricFamily("http_requests", "Requests answered.", labels=labels)
        latency = HistogramMetricFamily(
            "http_request_duration_seconds", "Time until answered; no streams.", labels=labels
        )
        bounds = [*map(str, BUCKETS), "+Inf"]
        for (method, route, status), cell in self.cells.items():
            names = [method, route, str(status)]
            counts = list(accumulate(cell[:-2]))
            total.add_metric(names, counts[-1] + cell[-2])
            latency.add_metric(names, list(zip(bounds, counts, strict=True)), cell[-1])
        yield from (total, latency)
        yield GaugeMetricFamily("http_requests_in_flight", "Begun, not answered.", self.in_flight)


def metrics(
    registry: CollectorRegistry, *, now: Callable[[], float] = time.perf_counter
) -> Middleware:
    """Count every request and how long it took, streams (prepared by their handler) without time.

    Status 499 is a client that left; an exception counts as what aiohttp makes of it. Routes that
    do not exist share the label `unmatched`, and methods that do not exist share `other`.
    """
    requests = _Requests()
    registry.register(requests)

    @web.middleware
    async def measure(request: web.Request, handler: Handler) -> web.StreamResponse:
        begun = now()
        status, streamed = 499, False
        requests.in_flight += 1
        try:
            response = await handler(request)
            status, streamed = response.status, response.prepared
        except web.HTTPException as error:
            status = error.status
            raise
        except ConnectionResetError:
            raise
        except Exception as error:
            status = 504 if isinstance(error, TimeoutError) else 500
            raise
        finally:
            requests.in_flight -= 1
            resource = request.match_info.route.resource
            route = resource.canonical if resource is not None else "unmatched"
            method = request.method if request.method in hdrs.METH_ALL else "other"
            requests.observe((method, route, status), None if streamed else now() - begun)
        return response

    return measure


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
