# Circulates, and is wrong: ../metrics.md says how. Not for copying.

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter

registry = CollectorRegistry()
REQUESTS = Counter("requests", "Requests.", ["path", "status"], registry=registry)


@web.middleware
async def count(request, handler):
    try:
        response = await handler(request)
    except Exception:
        REQUESTS.labels(request.path, "500").inc()
        raise
    REQUESTS.labels(request.path, str(response.status)).inc()
    return response
