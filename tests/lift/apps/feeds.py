"""Sources that an application has of its own."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

NEWS = b"id: 1\ndata: first\n\n"


@asynccontextmanager
async def subscribe_to_news(
    deliver: Callable[[bytes], None], after: str | None
) -> AsyncGenerator[tuple[list[bytes], str, bool]]:
    deliver(NEWS)
    yield [], after or "0", False


@asynccontextmanager
async def subscribe_to_nothing(deliver: Callable[[bytes], None]) -> AsyncGenerator[None]:
    yield
