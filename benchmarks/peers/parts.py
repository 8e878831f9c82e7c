"""What the peers share: one API, so that all do the same work, and its parts as usually written.

The API is the generated service's own: send a message to a room, read a page of a room, ask an
upstream for a rate. The parts are what documentations and templates use: PyJWT on each request,
`logging` with a formatter of JSON, an asyncio.Semaphore of 100. Each peer chooses where they go.
"""

import asyncio
import json
import logging
import os
import sys
import time
from collections import defaultdict, deque
from datetime import UTC, datetime
from functools import cache
from typing import Annotated, Any

import jwt
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

SECRET = os.environ["PEER_SECRET"]
ISSUER = AUDIENCE = os.environ["PEER_ISSUER"]
UPSTREAM = os.environ["PEER_UPSTREAM"]
PORT = int(os.environ["PEER_PORT"])
CONCURRENCY = 100
MESSAGES = "/api/v1/rooms/{room}/messages"
RATES = "/api/v1/rates/{currency}"


class NewMessage(BaseModel):
    model_config = ConfigDict(extra="forbid")

    text: Annotated[str, Field(min_length=1, max_length=2000)]


class Message(BaseModel):
    id: str
    room: str
    author: str
    text: str
    sent_at: AwareDatetime


class Messages(BaseModel):
    items: list[Message]
    next: str | None


class Page(BaseModel):
    """The query of a page."""

    limit: Annotated[int, Field(ge=1, le=100)] = 50
    after: str = ""


class Rate(BaseModel):
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")]
    rate: Annotated[float, Field(gt=0)]
    as_of: AwareDatetime


class Rooms:
    """The last thousand messages of each room."""

    def __init__(self) -> None:
        self._count = 0
        self._kept: defaultdict[str, deque[Message]] = defaultdict(lambda: deque(maxlen=1000))

    def send(self, room: str, author: str, new: NewMessage) -> Message:
        self._count += 1
        now = datetime.now(UTC)
        name = f"{int(now.timestamp() * 1000)}-{self._count:08}"
        message = Message(id=name, room=room, author=author, text=new.text, sent_at=now)
        self._kept[room].append(message)
        return message

    def page(self, room: str, limit: int, after: str = "") -> Messages:
        later = [message for message in self._kept[room] if message.id > after]
        more = later[limit - 1].id if len(later) > limit else None
        return Messages(items=later[:limit], next=more)


class BadTokenError(Exception):
    pass


def claims_of(authorization: str, scope: str = "") -> dict[str, Any]:
    """What a bearer token says, verified by PyJWT as its documentation shows."""
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer":
        raise BadTokenError
    try:
        claims: dict[str, Any] = jwt.decode(
            token,
            SECRET,
            algorithms=["HS256"],
            audience=AUDIENCE,
            issuer=ISSUER,
            options={"require": ["exp", "iat", "sub"]},
        )
    except jwt.InvalidTokenError:
        raise BadTokenError from None
    if scope and scope not in claims.get("scope", "").split():
        raise BadTokenError
    return claims


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "msg": record.getMessage(),
        }
        return json.dumps(line | getattr(record, "fields", {}))


@cache
def json_logger() -> logging.Logger:
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger("peer")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    logger.propagate = False
    return logger


def log_request(
    logger: logging.Logger, request_id: str, method: str, path: str, status: int, started: float
) -> None:
    duration = round((time.perf_counter() - started) * 1000, 2)
    fields = {"request_id": request_id, "method": method, "path": path, "status": status}
    logger.info("request", extra={"fields": fields | {"duration_ms": duration}})


def limiter() -> asyncio.Semaphore:
    return asyncio.Semaphore(CONCURRENCY)


def run_uvicorn(app: Any, **options: Any) -> None:
    """As fast as uvicorn gets: uvloop, httptools, no access log beside the request log."""
    import uvicorn  # noqa: PLC0415  # not every peer runs on it

    defaults = {"loop": "uvloop", "http": "httptools", "access_log": False}
    uvicorn.run(app, host="127.0.0.1", port=PORT, log_level="warning", **(defaults | options))
