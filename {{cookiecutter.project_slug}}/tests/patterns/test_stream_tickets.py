"""A ticket opens one stream, once, soon, for the one who bought it; and is of no use elsewhere."""

import base64
import json
import textwrap

import pytest

from {{cookiecutter.package_name}}.patterns import stream_tickets
from {{cookiecutter.package_name}}.patterns.stream_tickets import StreamTickets

SECRET = b"0123456789abcdef0123456789abcdef"
PATH = "/streams/a"


class Clock:
    def __init__(self, time: float) -> None:
        self.time = time

    def __call__(self) -> float:
        return self.time


def make(
    clock: Clock | None = None, secret: bytes = SECRET, audience: str = "one"
) -> StreamTickets:
    return StreamTickets(secret, audience=audience, now=clock or Clock(1000))


def buy(tickets: StreamTickets, *, expires_at: float = 5000, path: str = PATH) -> str:
    return tickets.issue(sub="ann", scopes={"b", "a"}, expires_at=expires_at, path=path)


def test_the_wiring_in_the_docstring_works() -> None:
    seen: list[object] = []

    class App:
        middlewares = seen
        router = type("Router", (), {"add_get": lambda *arguments: seen.append(arguments)})

    names = {
        "StreamTickets": StreamTickets,
        "app": App,
        "secret": SECRET,
        "verify": None,
        "jwt_auth": lambda **arguments: arguments["ticket"],
        "ticketed": lambda handler: handler,
        "events": None,
    }
    block = (stream_tickets.__doc__ or "").split("Wiring::")[1].split("Needs:")[0]
    exec(textwrap.dedent(block), names)  # noqa: S102
    assert len(seen) == 2


def test_a_ticket_carries_its_buyer_the_scopes_and_the_end_of_the_token() -> None:
    tickets = make()
    assert tickets.redeem(buy(tickets), PATH) == {"sub": "ann", "scope": "a b", "exp": 5000}


def test_another_process_with_the_same_secret_honours_it() -> None:
    assert make().redeem(buy(make()), PATH)["sub"] == "ann"


def test_is_good_once() -> None:
    tickets = make()
    ticket = buy(tickets)
    tickets.redeem(ticket, PATH)
    with pytest.raises(ValueError, match="used"):
        tickets.redeem(ticket, PATH)


def test_is_good_for_thirty_seconds() -> None:
    clock = Clock(1000)
    tickets = make(clock)
    early, late = buy(tickets), buy(tickets)
    clock.time = 1029.9
    tickets.redeem(early, PATH)
    clock.time = 1030
    with pytest.raises(ValueError, match="expired"):
        tickets.redeem(late, PATH)


def test_does_not_outlive_the_token_that_bought_it() -> None:
    clock = Clock(1000)
    tickets = make(clock)
    ticket = buy(tickets, expires_at=1003)
    clock.time = 1003
    with pytest.raises(ValueError, match="expired"):
        tickets.redeem(ticket, PATH)


@pytest.mark.parametrize("path", ["/streams/b", "/streams/a/", "/streams", "/streams/%61", ""])
def test_is_good_on_one_path(path: str) -> None:
    tickets = make()
    with pytest.raises(ValueError, match="another path"):
        tickets.redeem(buy(tickets), path)


def test_an_attempt_on_another_path_does_not_use_it_up() -> None:
    tickets = make()
    ticket = buy(tickets)
    with pytest.raises(ValueError, match="another path"):
        tickets.redeem(ticket, "/else")
    assert tickets.redeem(ticket, PATH)["sub"] == "ann"


@pytest.mark.parametrize(
    "other", [make(secret=b"x" * 32), make(audience="two")], ids=["secret", "audience"]
)
def test_is_nothing_to_a_service_with_another(other: StreamTickets) -> None:
    with pytest.raises(ValueError, match="bad ticket"):
        other.redeem(buy(make()), PATH)


def test_cannot_be_changed() -> None:
    tickets = make()
    text, mac = buy(tickets).split(".")
    body = json.loads(base64.urlsafe_b64decode(text + "=="))
    forged = base64.urlsafe_b64encode(json.dumps({**body, "sub": "eve"}).encode()).decode()
    with pytest.raises(ValueError, match="bad ticket"):
        tickets.redeem(f"{forged.rstrip('=')}.{mac}", PATH)


@pytest.mark.parametrize(
    "ticket",
    ["", ".", "a.b", "a.b.c", "a" * 9000, "ключ.ключ", "\udcff", "e30." + "0" * 64, "\0.\0"],
)
def test_any_text_that_is_no_ticket_is_refused(ticket: str) -> None:
    with pytest.raises(ValueError, match="ticket"):
        make().redeem(ticket, PATH)


def test_no_other_spelling_of_a_ticket_is_good() -> None:
    tickets = make()
    ticket = buy(tickets)
    for other in (
        ticket + "=",
        ticket.upper(),
        ticket.replace(".", "=."),
        ticket + ".",
        " " + ticket,
    ):
        with pytest.raises(ValueError, match="ticket"):
            tickets.redeem(other, PATH)


def test_what_was_redeemed_is_forgotten_when_it_could_not_be_redeemed_again() -> None:
    clock = Clock(1000)
    tickets = make(clock)
    for _ in range(10):
        tickets.redeem(buy(tickets), PATH)
    clock.time = 1031
    tickets.redeem(buy(tickets), PATH)
    assert len(tickets._redeemed) == 1


def test_a_flood_of_tickets_takes_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_tickets, "MAX_REMEMBERED", 5)
    tickets = make()
    for _ in range(20):
        tickets.redeem(buy(tickets), PATH)
    assert len(tickets._redeemed) == 5


def test_a_short_secret_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        make(secret=b"short")
