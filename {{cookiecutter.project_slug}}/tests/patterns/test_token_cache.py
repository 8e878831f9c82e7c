"""Speed for honest clients and no gain for others: one test for each property of the cache."""

import textwrap

from {{cookiecutter.package_name}}.patterns import token_cache
from {{cookiecutter.package_name}}.patterns.token_cache import TokenCache


class Clock:
    def __init__(self, time: float) -> None:
        self.time = time

    def __call__(self) -> float:
        return self.time


def test_the_wiring_in_the_docstring_works() -> None:
    def jwt_auth(**arguments: object) -> dict[str, object]:
        return arguments

    class App:
        middlewares: list[dict[str, object]] = []  # noqa: RUF012  # lives for one test

    names = {"TokenCache": TokenCache, "app": App, "verify": None, "jwt_auth": jwt_auth}
    block = (token_cache.__doc__ or "").split("Wiring::")[1].split("Needs:")[0]
    exec(textwrap.dedent(block), names)  # noqa: S102
    assert isinstance(App.middlewares[0]["cache"], TokenCache)


def test_a_token_that_was_put_is_found() -> None:
    cache = TokenCache[str](now=Clock(1000))
    cache.put("token", "ann", 2000)
    assert cache.get("token") == "ann"


def test_another_token_is_not_found() -> None:
    cache = TokenCache[str](now=Clock(1000))
    cache.put("token", "ann", 2000)
    assert [cache.get(other) for other in ("token=", "Token", "toke", "", "\udcff")] == [None] * 5


def test_an_entry_lives_sixty_seconds_and_no_longer() -> None:
    clock = Clock(1000)
    cache = TokenCache[str](now=clock)
    cache.put("token", "ann", 9000)
    clock.time = 1059.9
    assert cache.get("token") == "ann"
    clock.time = 1060
    assert cache.get("token") is None


def test_a_hit_does_not_prolong_an_entry() -> None:
    clock = Clock(1000)
    cache = TokenCache[str](now=clock)
    cache.put("token", "ann", 9000)
    for clock.time in range(1000, 1060, 5):
        assert cache.get("token") == "ann"
    clock.time = 1060
    assert cache.get("token") is None


def test_an_entry_never_outlives_its_token_and_the_leeway() -> None:
    clock = Clock(1000)
    cache = TokenCache[str](leeway=10, now=clock)
    cache.put("token", "ann", 1005)
    clock.time = 1014.9
    assert cache.get("token") == "ann"
    clock.time = 1015
    assert cache.get("token") is None


def test_an_entry_that_ended_is_gone() -> None:
    clock = Clock(1000)
    cache = TokenCache[str](now=clock)
    cache.put("token", "ann", 1005)
    clock.time = 1005
    cache.get("token")
    assert len(cache) == 0


def test_a_clock_that_is_set_back_prolongs_nothing() -> None:
    clock = Clock(1000)
    cache = TokenCache[str](now=clock)
    cache.put("token", "ann", 9000)
    clock.time = 500
    assert cache.get("token") is None


def test_holds_no_more_than_its_size_and_lets_the_oldest_go() -> None:
    cache = TokenCache[int](size=3, now=Clock(1000))
    for number in range(5):
        cache.put(f"token {number}", number, 2000)
    assert len(cache) == 3
    assert [cache.get(f"token {number}") for number in range(5)] == [None, None, 2, 3, 4]


def test_putting_a_token_again_costs_no_other_its_place() -> None:
    cache = TokenCache[int](size=2, now=Clock(1000))
    for token in ("a", "b", "b", "b"):
        cache.put(token, 1, 2000)
    assert cache.get("a") == 1


def test_is_empty_after_clear() -> None:
    cache = TokenCache[str](now=Clock(1000))
    cache.put("token", "ann", 2000)
    cache.clear()
    assert cache.get("token") is None


def test_holds_no_more_of_a_token_than_its_last_letters() -> None:
    cache = TokenCache[str](now=Clock(1000))
    signature = "dBjftJeZ4CVP-mBd1qoVP9kOQ7nVb7q1hYw8rPZpQyk"  # 43 letters, as of HS256
    cache.put(f"header.payload.{signature}", "ann", 2000)
    held = repr(vars(cache))
    assert "ann" in held
    assert "header" not in held
    assert signature[-17:] not in held


def test_a_token_with_another_middle_is_not_found() -> None:
    cache = TokenCache[str](now=Clock(1000))
    cache.put("header.payload.signature-of-it", "ann", 2000)
    assert cache.get("header.Payload.signature-of-it") is None
