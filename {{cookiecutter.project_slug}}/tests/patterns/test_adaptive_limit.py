import asyncio
import textwrap
from collections.abc import Sequence

import pytest
from aiohttp import web

from {{cookiecutter.package_name}}.patterns import adaptive_limit as pattern
from {{cookiecutter.package_name}}.patterns.adaptive_limit import AdaptiveLimit

FREE, BUSY = 0.001, 0.072  # seconds the loop is late; the target is 18 ms
WINDOW = 0.1


class Load:
    """Feeds a limit with windows of 100 ms, by a clock of its own."""

    def __init__(self, limit: AdaptiveLimit) -> None:
        self.limit = limit
        self.now = 100.0

    def until(self, limit: int, *, done: int) -> float:
        """Refuse on a free loop until the limit is this, and say how long that took."""
        begun = self.now
        for _ in range(200):
            if self.window(FREE, refused=True, done=done) == limit:
                return self.now - begun
        raise AssertionError(f"the limit stays at {self.limit.limit}")

    def window(self, delay: float, *, peak: int = 0, done: int = 0, refused: bool = False) -> int:
        """One window; `refused` means that more than the limit were there at once."""
        peak = self.limit.limit if refused else peak
        if peak:
            self.limit.admit(peak - 1)
        if refused:
            assert not self.limit.admit(self.limit.limit)
        self.limit.finished(done)
        self.now += WINDOW
        self.limit.decide(delay, self.now)
        return self.limit.limit


@pytest.fixture
async def load() -> Load:
    return Load(AdaptiveLimit(ceiling=1000))


async def test_a_late_loop_lowers_a_limit_that_is_in_use(load: Load) -> None:
    assert load.window(BUSY, peak=64) == 32


async def test_no_window_more_than_halves_the_limit(load: Load) -> None:
    assert load.window(10.0, peak=64) == 32


async def test_a_stall_that_the_requests_did_not_cause_lowers_nothing(load: Load) -> None:
    assert load.window(BUSY, peak=31) == 64


async def test_the_limit_stays_between_floor_and_ceiling() -> None:
    load = Load(AdaptiveLimit(ceiling=100, floor=20))
    for _ in range(5):
        load.window(BUSY, peak=load.limit.limit)
    assert load.limit.limit == 20
    for step in range(40):
        load.window(FREE, refused=True, done=100 * 2**step)
    assert load.limit.limit == 100


async def test_a_ceiling_below_the_start_is_where_it_starts() -> None:
    assert AdaptiveLimit(ceiling=5).limit == 5


async def test_a_loop_near_the_target_lets_the_limit_rise_only_when_somebody_was_refused(
    load: Load,
) -> None:
    assert load.window(0.0114, peak=64) == 64
    assert load.window(0.0114, refused=True, done=100) == 80


async def test_a_loop_may_be_less_late_where_most_are_refused(load: Load) -> None:
    for _ in range(90):
        load.limit.admit(64)
    assert load.window(0.010, peak=64, done=10) == 52
    assert load.window(0.010, peak=52, done=100) == 52


async def test_nothing_happens_on_a_free_loop_that_refuses_nobody(load: Load) -> None:
    assert [load.window(FREE, peak=60, done=600) for _ in range(5)] == [64] * 5


async def test_refusing_on_a_free_loop_raises_the_limit_after_two_turns(load: Load) -> None:
    assert load.window(FREE, refused=True, done=40) == 64  # not every slot has turned over
    assert load.window(FREE, refused=True, done=40) == 64  # now they have: measure from here
    assert load.window(FREE, refused=True, done=40) == 64  # not a whole turn yet
    assert load.window(FREE, refused=True, done=40) == 96


async def test_raises_go_on_while_they_bring_more_answers(load: Load) -> None:
    limits = [load.window(FREE, refused=True, done=3 * load.limit.limit) for _ in range(6)]
    assert limits == sorted(limits)
    assert limits[-1] > 200


async def test_a_raise_that_brings_nothing_is_taken_back(load: Load) -> None:
    load.until(96, done=100)
    load.until(64, done=100)


async def test_after_a_useless_raise_the_limit_holds_longer_each_time(load: Load) -> None:
    held: list[float] = []
    for _ in range(7):
        held.append(load.until(96, done=100))
        load.until(64, done=100)
    assert held[1:] == pytest.approx([0.5, 1, 2, 4, 8, 8], abs=0.31)


async def test_a_useful_raise_ends_the_long_holds(load: Load) -> None:
    for _ in range(3):
        load.until(96, done=100)
        load.until(64, done=100)
    load.until(96, done=100)
    load.until(144, done=200)  # twice as many answers at 96
    load.until(96, done=200)
    assert load.until(144, done=200) == pytest.approx(0.5, abs=0.31)


async def test_a_pause_in_refusals_does_not_make_a_raise_count_as_useful(load: Load) -> None:
    load.until(96, done=100)
    for _ in range(5):
        load.window(FREE, peak=96, done=100)  # requests fill the new slots: nobody is refused
    load.until(64, done=100)
    assert load.now < 102


async def test_a_raise_that_was_enough_for_three_seconds_is_kept(load: Load) -> None:
    load.until(96, done=100)
    for _ in range(35):
        load.window(FREE, peak=90, done=100)
    load.until(144, done=100)


async def test_a_busy_loop_drops_the_comparison_when_it_lowers_the_limit(load: Load) -> None:
    load.until(96, done=100)
    lowered = load.window(0.024, peak=96, done=100)
    limits = [load.window(FREE, refused=True, done=100) for _ in range(3)]
    assert min(limits) >= lowered
    assert limits[-1] > lowered


@pytest.mark.parametrize("burst", [1, 100], ids=["one_by_one", "a_hundred_at_once"])
async def test_requests_that_come_and_go_in_step_raise_the_limit_until_nobody_is_refused(
    load: Load, burst: int
) -> None:
    refused_at = 0.0
    ends: list[float] = []
    for step in range(6000):  # of 10 ms: 100 a second for a minute, each takes exactly 2 s
        now = step / 100
        left = sum(end <= now for end in ends)
        load.limit.finished(left)
        ends = ends[left:]
        for _ in range(burst if step % burst == 0 else 0):
            if load.limit.admit(len(ends)):
                ends.append(now + 2)
            else:
                refused_at = now
        if step % 10 == 9:
            load.limit.decide(FREE, now)
    assert refused_at < 30
    assert load.limit.limit >= 200


async def test_a_lull_makes_no_raise_look_useful(load: Load) -> None:
    load.window(FREE, refused=True, done=100)
    for _ in range(10):
        load.window(FREE, peak=10, done=10)  # a tenth of the answers, as nobody asked for more
    load.until(96, done=100)
    load.until(64, done=100)


async def test_after_a_pause_a_lowered_limit_begins_anew() -> None:
    limit = AdaptiveLimit()
    assert limit.admit(40)
    await limit.stop()
    limit.decide(BUSY, 1.0)
    assert limit.limit == 32
    assert limit.admit(0)
    assert limit.limit == 64
    await limit.stop()


async def test_it_refuses_above_the_limit_and_admits_below() -> None:
    limit = AdaptiveLimit(ceiling=2)
    assert [limit.admit(number) for number in (0, 1, 2, 0)] == [True, True, False, True]


async def test_the_probe_feeds_decisions_and_stops_when_nothing_is_in_flight() -> None:
    loop = asyncio.get_running_loop()
    decided = asyncio.Event()
    seen: list[float] = []

    class Probed(AdaptiveLimit):
        def decide(self, delay: float, now: float) -> None:
            seen.append(delay)
            super().decide(delay, now)
            if len(seen) == 3:  # windows without an arrival among them
                self.finished(1)
                decided.set()

    limit = Probed(ceiling=1000)
    before = timers(loop)
    assert limit.admit(0)
    assert timers(loop) == before + 1
    async with asyncio.timeout(5):
        await decided.wait()
        while timers(loop) > before + 1:  # noqa: ASYNC110  # timers have no event
            await asyncio.sleep(0.005)
    assert len(seen) in {3, 4}
    assert min(seen) >= 0
    assert limit.admit(0)  # and begins again
    await limit.stop()
    await limit.stop()


def timers(loop: asyncio.AbstractEventLoop) -> int:
    scheduled: Sequence[asyncio.TimerHandle] = loop._scheduled  # type: ignore[attr-defined]  # no public way
    return sum(not timer.cancelled() for timer in scheduled)


async def test_the_wiring_of_the_docstring_works() -> None:
    app = web.Application()
    wiring = textwrap.dedent((pattern.__doc__ or "").split("Wiring::")[1].split("Needs:")[0])
    exec(wiring, {**vars(pattern), "app": app})  # noqa: S102
    assert len(app.on_cleanup) == 2  # aiohttp's own for cleanup contexts, and this
