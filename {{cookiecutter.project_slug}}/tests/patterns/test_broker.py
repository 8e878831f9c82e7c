import asyncio
import textwrap
import tracemalloc
from collections.abc import Callable
from contextlib import AsyncExitStack

import pytest
from aiohttp import web

from {{cookiecutter.package_name}}.patterns import broker as pattern
from {{cookiecutter.package_name}}.patterns.broker import Broker, Event, MemoryBroker


def ignore(event: Event) -> None:
    """A subscriber that wants nothing."""


async def published(broker: Broker, *payloads: bytes, topic: str = "t") -> list[Event]:
    return [await broker.publish(topic, payload) for payload in payloads]


async def test_a_subscriber_gets_what_is_published_to_its_topic_in_order() -> None:
    broker, got = MemoryBroker(), list[Event]()
    async with broker.subscribe("t", got.append):
        await broker.publish("other", b"x")
        sent = await published(broker, b"1", b"2", b"3")
    await broker.publish("t", b"late")
    assert got == sent


async def test_ids_grow_even_when_the_clock_stands_still_or_goes_back() -> None:
    times = iter([5.0, 6.0, 6.0, 2.0, 7.0])
    broker = MemoryBroker(now=lambda: next(times))
    assert [event.id for event in await published(broker, b"", b"", b"", b"")] == [
        "6000-0",
        "6000-1",
        "6000-2",
        "7000-0",
    ]


async def test_a_page_begins_after_the_id_and_says_whether_there_is_more() -> None:
    broker = MemoryBroker()
    first, second, third = await published(broker, b"1", b"2", b"3")
    assert await broker.page("t", None, 2) == ([first, second], True)
    assert await broker.page("t", second.id, 2) == ([third], False)
    assert await broker.page("unknown", None, 2) == ([], False)


@pytest.mark.parametrize("after", ["", "x", "1", "1-", "-1-1", "1-1-1", "٣-٣", "9" * 5000 + "-0"])
async def test_a_malformed_id_reaches_back_to_nothing(after: str) -> None:
    broker = MemoryBroker()
    sent = await published(broker, b"1")
    assert (await broker.page("t", after, 9))[0] == sent
    async with broker.subscribe("t", ignore, after) as backlog:
        assert (backlog.events, backlog.reset) == (sent, True)


async def test_resuming_continues_without_gap_or_duplicate() -> None:
    broker, got = MemoryBroker(), list[Event]()
    sent = await published(broker, b"1", b"2", b"3")
    async with broker.subscribe("t", got.append, sent[0].id) as backlog:
        sent += await published(broker, b"4")
        assert not backlog.reset
        assert [*backlog.events, *got] == sent[1:]


async def test_the_position_of_a_backlog_resumes_where_it_ends() -> None:
    broker = MemoryBroker()
    await published(broker, b"1")
    async with broker.subscribe("t", ignore) as fresh:
        assert fresh.events == []
    sent = await published(broker, b"2")
    async with broker.subscribe("t", ignore, fresh.position) as backlog:
        assert (backlog.events, backlog.reset) == (sent, False)


async def test_resuming_from_beyond_the_history_is_a_reset() -> None:
    broker = MemoryBroker(history=2)
    sent = await published(broker, b"1", b"2", b"3", b"4")
    async with broker.subscribe("t", ignore, sent[0].id) as backlog:
        assert (backlog.events, backlog.reset) == (sent[2:], True)
    async with broker.subscribe("t", ignore, sent[1].id) as backlog:
        assert (backlog.events, backlog.reset) == (sent[2:], False)


@pytest.mark.parametrize("after", ["4000-7", "9999999-0"])
async def test_an_id_from_before_the_start_or_from_the_future_is_a_reset(after: str) -> None:
    broker = MemoryBroker(now=lambda: 5.0)
    async with broker.subscribe("t", ignore, after) as backlog:
        assert (backlog.events, backlog.reset) == ([], True)


async def test_an_id_from_the_future_brings_all_that_is_kept() -> None:
    broker = MemoryBroker()
    sent = await published(broker, b"1", b"2")
    async with broker.subscribe("t", ignore, "99999999999999-0") as backlog:
        assert (backlog.events, backlog.reset) == (sent, True)


async def test_a_topic_of_which_nothing_is_left_leaves_nothing() -> None:
    broker = MemoryBroker()
    async with broker.subscribe("t", ignore):
        assert broker._topics
    assert not broker._topics


async def kept(broker: Broker, topic: str) -> int:
    return len((await broker.page(topic, None, 100_000))[0])


async def test_the_topic_that_was_used_least_recently_is_forgotten_first() -> None:
    broker = MemoryBroker(size=50_000)
    for topic in ("a", "b", "a", "c"):
        await broker.publish(topic, bytes(12_000))
    assert [await kept(broker, topic) for topic in ("a", "b", "c")] == [2, 0, 1]


async def test_to_use_a_topic_again_forgets_no_other() -> None:
    broker = MemoryBroker(size=8000)
    async with broker.subscribe("heard", ignore):
        sent = await published(broker, b"1", topic="idle")
        for _ in range(10):
            await broker.publish("heard", b"")
        assert (await broker.page("idle", None, 9))[0] == sent


async def test_what_a_forgotten_topic_had_after_the_id_is_a_reset() -> None:
    broker = MemoryBroker(size=5000)
    first, _ = await published(broker, b"1", b"2")
    await broker.publish("other", bytes(2000))
    async with broker.subscribe("t", ignore, first.id) as backlog:
        assert (backlog.events, backlog.reset) == ([], True)


async def test_an_id_with_something_behind_it_is_malformed() -> None:
    broker = MemoryBroker()
    sent = await published(broker, b"1", b"2")
    assert (await broker.page("t", sent[0].id + "x", 9))[0] == sent


async def test_a_topic_that_was_forgotten_is_one_that_had_nothing_since() -> None:
    broker = MemoryBroker(size=5000)
    (lost,) = await published(broker, b"1", topic="idle")
    await broker.publish("other", bytes(2000))
    assert await kept(broker, "idle") == 0
    async with broker.subscribe("idle", ignore, lost.id) as backlog:
        assert not backlog.reset  # nothing came after it
    async with broker.subscribe("idle", ignore, "0-0") as backlog:
        assert backlog.reset


async def test_what_is_listened_to_goes_on_without_its_history() -> None:
    broker, got = MemoryBroker(size=9000), list[Event]()
    async with broker.subscribe("heard", got.append):
        first, second = await published(broker, bytes(1000), bytes(1000), topic="heard")
        (last,) = await published(broker, bytes(3000), topic="other")
        assert (await kept(broker, "heard"), await kept(broker, "other")) == (0, 1)
        async with broker.subscribe("heard", ignore, first.id) as backlog:
            assert (backlog.events, backlog.position, backlog.reset) == ([], last.id, True)
        (third,) = await published(broker, b"3", topic="heard")
    assert got == [first, second, third]
    async with broker.subscribe("heard", ignore, first.id) as backlog:
        assert (backlog.events, backlog.reset) == ([third], True)


async def test_an_id_from_before_what_was_forgotten_is_a_reset_when_all_have_left() -> None:
    broker = MemoryBroker(size=9000)
    async with broker.subscribe("heard", ignore):
        first, _ = await published(broker, bytes(1000), bytes(1000), topic="heard")
        await broker.publish("other", bytes(3000))
    async with broker.subscribe("heard", ignore, first.id) as backlog:
        assert backlog.reset


async def test_it_takes_no_more_memory_than_its_size() -> None:
    broker = MemoryBroker(size=4_000_000, history=100)
    tracemalloc.start()
    for number in range(30_000):
        await broker.publish(f"topic {number % 10_000 if number % 2 else 0}", bytes(number % 500))
    taken, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 2_000_000 < taken < peak < 4_400_000
    assert await kept(broker, "topic 0") == 100


async def test_an_event_larger_than_all_that_is_kept_is_delivered_and_not_kept() -> None:
    broker, got = MemoryBroker(size=1000), list[Event]()
    async with broker.subscribe("t", got.append):
        sent = await published(broker, bytes(2000), b"")
    assert got == sent
    assert await kept(broker, "t") == 0


async def test_a_subscriber_that_fails_does_not_keep_the_others_from_theirs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(event: Event) -> None:
        raise ValueError

    broker, got = MemoryBroker(), list[Event]()
    async with broker.subscribe("t", fail), broker.subscribe("t", got.append):
        sent = await published(broker, b"1")
    assert got == sent
    assert len(caplog.records) == 1


async def crowd(broker: Broker, stack: AsyncExitStack, deliver: Callable[[Event], None]) -> None:
    for _ in range(250):
        await stack.enter_async_context(broker.subscribe("t", deliver))


async def test_a_large_delivery_lets_the_loop_run_in_between() -> None:
    broker, got, seen = MemoryBroker(), list[Event](), list[int]()
    async with AsyncExitStack() as stack:
        await crowd(broker, stack, got.append)
        publishing = asyncio.create_task(broker.publish("t", b""))
        while not publishing.done():
            await asyncio.sleep(0)
            seen.append(len(got))
    assert 200 in seen
    assert len(got) == 250


async def test_a_publisher_that_is_cancelled_leaves_nobody_without() -> None:
    broker, got = MemoryBroker(), list[Event]()
    async with AsyncExitStack() as stack:
        await crowd(broker, stack, got.append)
        publishing = asyncio.create_task(broker.publish("t", b""))
        while not got:  # noqa: ASYNC110  # until the delivery is half done
            await asyncio.sleep(0)
        publishing.cancel()
        await broker.publish("t", b"")
    assert len(got) == 500


async def test_who_comes_or_goes_during_a_large_delivery_misses_and_repeats_nothing() -> None:
    broker, early, late = MemoryBroker(), list[Event](), list[Event]()
    async with AsyncExitStack() as stack:
        await crowd(broker, stack, ignore)
        leaver = broker.subscribe("t", early.append)
        await leaver.__aenter__()
        publishing = [asyncio.create_task(broker.publish("t", b"%d" % n)) for n in range(3)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await leaver.__aexit__(None, None, None)
        backlog = await stack.enter_async_context(broker.subscribe("t", late.append, "0-0"))
        sent = [*await asyncio.gather(*publishing), await broker.publish("t", b"3")]
    assert early == []
    assert [*backlog.events, *late] == sent


async def test_the_order_holds_when_many_leave_during_a_large_delivery() -> None:
    broker, got = MemoryBroker(), list[Event]()
    async with AsyncExitStack() as stack:
        async with AsyncExitStack() as leaving:
            await crowd(broker, leaving, ignore)
            await crowd(broker, leaving, ignore)
            await stack.enter_async_context(broker.subscribe("t", got.append))
            first = asyncio.create_task(broker.publish("t", b"1"))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        second = await broker.publish("t", b"2")
        assert got == [await first, second]


async def test_after_a_large_delivery_a_small_one_waits_for_nothing() -> None:
    broker = MemoryBroker()
    async with AsyncExitStack() as stack:
        await crowd(broker, stack, ignore)
        await broker.publish("t", b"")
    publishing = broker.publish("t", b"")
    with pytest.raises(StopIteration):
        publishing.send(None)


async def test_the_wiring_of_the_docstring_works() -> None:
    names: dict[str, object] = {"MemoryBroker": MemoryBroker, "web": web}
    block = (pattern.__doc__ or "").split("Wiring::\n\n")[1].split("\n\nNeeds")[0]
    exec(textwrap.dedent(block), names)  # noqa: S102
    assert isinstance(names["broker"], MemoryBroker)
