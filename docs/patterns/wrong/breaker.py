# Circulates, and is wrong: ../breaker.md says how. Not for copying.

import aiohttp


async def call(session, url):
    try:
        async with session.get(url, timeout=aiohttp.ClientTimeout(total=0.1)) as response:
            return await response.text()
    except (aiohttp.ClientError, TimeoutError):
        return None
