# Circulates, and is wrong: ../token_cache.md says how. Not for copying.

from functools import lru_cache


def cached(verify):
    return lru_cache(maxsize=1024)(verify)
