# Circulates, and is wrong: ../server_noise.md says how. Not for copying.

import logging


def quiet():
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)
