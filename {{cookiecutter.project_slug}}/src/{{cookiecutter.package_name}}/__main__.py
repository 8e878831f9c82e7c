"""Entry point: settings, logging, serve. The only module that touches the process."""

import argparse
import asyncio
import errno
import logging
import os
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

from aiohttp import web

from .admission import GATE
from .app import ADMIN, DRAIN, create_app
from .dev import dev_token
from .patterns.drain import Listen
from .patterns.early_refusal import refuse_early
from .patterns.json_logging import configure_logging, console_line, json_line
from .patterns.parser_errors import parser_problems
from .patterns.request_id import current_ids
from .patterns.security_headers import API_HEADERS
from .patterns.server_noise import quiet_noise
from .patterns.slow_clients import cut_off_slow_clients
from .settings import Settings, SettingsError, load_settings

logger = logging.getLogger(__package__)

NO_ADDRESS = {errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES, errno.EBADF, errno.ENOTSOCK}
OPTIONS = {
    "keepalive_timeout": 75.0,  # seconds; longer than load balancers keep theirs (60)
    "lingering_time": 2.0,  # seconds that a refused body is still read and thrown away
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the service, check its settings, or print a token; the result is the exit code.

    0 after a drain, 1 when the address is taken, 2 when the settings are wrong.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {__package__}")
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("check", help="check the settings, and no more")
    token = commands.add_parser("token", help="print a token")
    token.add_argument("--sub", default="dev", help="whom it is for")
    token.add_argument("--scope", default="", help="scopes, separated by spaces")
    given = parser.parse_args(arguments)
    try:
        settings = load_settings()
        if given.command == "token":
            sys.stdout.write(_token(settings, given.sub, given.scope) + "\n")
        if given.command is not None:
            return 0
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    write = partial(os.write, sys.stdout.fileno())
    _configure_logging(settings, write)
    _allow_files()
    try:
        asyncio.run(_serve(settings, write))
    except OSError as error:
        if error.errno not in NO_ADDRESS:
            raise
        sys.stderr.write(f"cannot listen: {error.strerror}\n")
        return 1
    return 0


def _token(settings: Settings, sub: str, scope: str) -> str:
    if "jwt_secret" not in settings.model_fields_set:
        raise SettingsError(["APP_JWT_SECRET: not set, so the service would refuse the token"])
    try:
        return dev_token(settings, sub=sub, scopes=scope.split())
    except ValueError as error:
        raise SettingsError([f"APP_ENV: {error}"]) from None


def _configure_logging(settings: Settings, write: Callable[[bytes], object]) -> None:
    encode = console_line if settings.log_format == "console" else json_line
    configure_logging(level=settings.log_level, write=write, encode=encode, context=current_ids)
    for name in ("aiohttp.server", "asyncio"):
        logging.getLogger(name).addFilter(quiet_noise())


async def _serve(settings: Settings, write: Callable[[bytes], object]) -> None:
    app = create_app(settings, write)
    admin = None
    if settings.admin_port is not None:
        admin = app[ADMIN], Listen(host=settings.host, port=settings.admin_port)
    if "jwt_secret" not in settings.model_fields_set and settings.jwt_jwks_url is None:
        logger.warning("APP_JWT_SECRET is not set: only tokens of the demo page are accepted")
    listen = Listen(host=settings.host, port=settings.port, options=OPTIONS, prepare=before_routing)
    if settings.listen_fd is not None:
        listen = replace(listen, sock=socket.socket(fileno=settings.listen_fd))
    await app[DRAIN].serve(app, listen, admin=admin, on_listening=_tell)
    logger.info("stopped")


def before_routing(runner: web.AppRunner) -> None:
    """See to what no middleware sees: what is no HTTP, what is too much, and who is too slow."""
    server = runner.server
    if server is not None:
        server.request_factory = parser_problems(server.request_factory, API_HEADERS)
        refuse_early(server, runner.app[GATE]())
        cut_off_slow_clients(server)


def _allow_files() -> None:
    """Each connection is an open file, and systems give 1,024 to whoever does not ask for more."""
    with suppress(ImportError, OSError, ValueError):  # Windows; macOS has a maximum of its own
        import resource  # noqa: PLC0415

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _tell(urls: Sequence[str]) -> None:
    logger.info("listening on %s", ", ".join(urls))


if __name__ == "__main__":
    sys.exit(main())
