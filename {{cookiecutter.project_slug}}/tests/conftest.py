"""Fixtures for tests of the service as a whole: it runs as in production, on a free port."""

import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from {{cookiecutter.package_name}}.app import create_app
from {{cookiecutter.package_name}}.dev import dev_token
from {{cookiecutter.package_name}}.settings import Settings


@dataclass
class Service:
    """A running service, a session to talk to it, and what it wrote to its request log."""

    settings: Settings
    app: web.Application
    url: URL
    session: aiohttp.ClientSession
    log: list[Any] = field(default_factory=list)

    def token(self, *scopes: str, sub: str = "alice", lifetime: float = 3600) -> str:
        return dev_token(self.settings, sub=sub, scopes=scopes, lifetime=lifetime)

    def bearer(self, *scopes: str, sub: str = "alice", lifetime: float = 3600) -> dict[str, str]:
        """The headers of a request by `sub` with these scopes: one line in a test of yours."""
        return {"Authorization": f"Bearer {self.token(*scopes, sub=sub, lifetime=lifetime)}"}


def make_settings(**changes: Any) -> Settings:
    """The settings of development with these changes, which are checked as the environment is."""
    return Settings.model_validate({"env": "dev", "log_format": "json"} | changes)


Start = Callable[..., Awaitable[Service]]


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith("APP_")]:
        monkeypatch.delenv(name)


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Start a service with settings that differ from those of development."""
    async with AsyncExitStack() as stack:

        async def started(**changes: Any) -> Service:
            log: list[Any] = []
            settings = make_settings(**changes)
            app = create_app(settings, lambda line: log.append(json.loads(line)))
            # Not the test server of aiohttp: that one cancels handlers, production does not.
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
            stack.push_async_callback(runner.cleanup)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            url = URL(f"http://127.0.0.1:{runner.addresses[0][1]}")
            session = await stack.enter_async_context(aiohttp.ClientSession(url))
            return Service(settings, app, url, session, log)

        yield started


@pytest.fixture
async def service(start: Start) -> Service:
    return await start()
