"""Whether a peer does the same work; a comparison of servers that do not is worth nothing."""

import json
import time
from datetime import datetime

from fleet import Server
from load import TEXT, ask, read_page, read_rate, request, send_message, token

PATH = "/api/v1/rooms/lobby/messages"


def same_work(server: Server) -> None:
    """201 with an equal model, bad tokens 401 or 403, bad bodies 400 or 422, a line a request."""
    bearer = token()
    server.lines()
    status, headers, body = ask(server, send_message(bearer))
    _expect(server, "the message is created", (status, 201))
    message = json.loads(body)
    _expect(server, "the fields", (set(message), {"id", "room", "author", "text", "sent_at"}))
    given = {"room": "lobby", "author": "bench", "text": TEXT}
    _expect(server, "the model", (message | given, message))
    datetime.fromisoformat(message["sent_at"])
    _expect(server, "the request id", (bool(headers.get("x-request-id")), True))
    _one_line(server, headers["x-request-id"], 201)
    for bad in (None, "no.such.token", token("another secret" * 4), token(exp=1_700_000_000)):
        refused = ask(server, send_message(bad))[0]
        _expect(server, "a bad token", (refused in {401, 403}, True))
    _expect(server, "no scope", (ask(server, send_message(token(scope="x")))[0], 403), {401})
    for wrong in (b"{", b'{"text":""}', b'{"text":"a","more":1}', b'{"texts":"a"}'):
        refused = ask(server, request("POST", PATH, bearer, wrong))[0]
        _expect(server, f"the body {wrong!r}", (refused in {400, 422}, True))
    ask(server, send_message(bearer, room="quiet"))
    server.lines()
    status, headers, body = ask(server, read_page(bearer))
    _expect(server, "a page", (status, 200))
    _expect(server, "its items", ([item["text"] for item in json.loads(body)["items"]], [TEXT]))
    _one_line(server, headers["x-request-id"], 200)
    wrong_page = ask(server, read_page(bearer).replace(b"limit=1 ", b"limit=0 "))[0]
    _expect(server, "a page of none", (wrong_page in {400, 422}, True))
    status, headers, body = ask(server, read_rate(bearer))
    _expect(server, "a rate", (status, 200))
    rate = json.loads(body)
    as_of = datetime.fromisoformat(rate.pop("as_of"))
    _expect(server, "its value", (rate, {"currency": "EUR", "rate": 1.08}))
    _expect(server, "its time", (as_of.isoformat(), "2026-01-01T00:00:00+00:00"))
    _one_line(server, headers["x-request-id"], 200)


def logged(server: Server) -> None:
    """After a load: a line for each answer; what was refused (503) may have none."""
    deadline, lines = time.monotonic() + 5, 0
    while lines < server.answered and time.monotonic() < deadline:
        lines += sum(line.get("status") != 503 for line in server.lines() if "status" in line)
    if lines != server.answered:
        raise SystemExit(f"{server.name} has logged {lines} of {server.answered} requests")


def _one_line(server: Server, request_id: str, status: int) -> None:
    deadline, found = time.monotonic() + 5, list[object]()
    while not found and time.monotonic() < deadline:
        time.sleep(0.02)  # the line may follow the answer
        lines = [line for line in server.lines() if line.get("request_id") == request_id]
        found = [line["status"] for line in lines]
    _expect(server, "the status in the one line of log", (found, [status]))


def _expect(
    server: Server, what: str, pair: tuple[object, object], also: set[object] | None = None
) -> None:
    got, wanted = pair
    if got != wanted and not (also and got in also):
        raise SystemExit(f"{server.name} does not do the same work: {what} is {got!r}")
