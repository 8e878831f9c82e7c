# Circulates, and is wrong: ../request_log.md says how. Not for copying.

import logging
import time

from aiohttp import web

logger = logging.getLogger("requests")


@web.middleware
async def log(request, handler):
    start = time.time()
    response = await handler(request)
    logger.info("%s %s %s %.3f", request.method, request.path_qs, response.status, time.time() - start)
    return response
