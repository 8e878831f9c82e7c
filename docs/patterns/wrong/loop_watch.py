# Circulates, and is wrong: ../loop_watch.md says how. Not for copying.

import asyncio
import logging

logger = logging.getLogger(__name__)


async def measure_lag():
    loop = asyncio.get_running_loop()
    while True:
        start = loop.time()
        await asyncio.sleep(0.05)
        lag = loop.time() - start - 0.05
        if lag > 0.1:
            logger.warning("event loop lag: %.2f s", lag)


async def lag_monitor(app):
    task = asyncio.create_task(measure_lag())
    yield
    task.cancel()
