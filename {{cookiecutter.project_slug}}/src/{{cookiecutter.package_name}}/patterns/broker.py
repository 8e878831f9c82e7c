"""Ordered events by topic, from any publisher to every subscriber, with a history to resume from.

`Broker` is what streams may rely on; `MemoryBroker` keeps it inside one process. Ids have the shape
of Redis Stream ids, `<ms>-<seq>`, and only grow, also across a restart: a client that comes back
with an id from before it is told that there is a gap.

Wiring::

    broker = MemoryBroker(history=1000)

    async def news(request: web.Request) -> web.Response:
        event = await broker.publish("news", await request.read())
        return web.Response(status=201, text=event.id)

Needs: aiohttp>=3.14.4
Order: none; it is no middleware.
Not: delivery between processes, or a history that survives the process.
"""

import asyncio
import logging
import re
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple, Protocol

__all__ = ["Backlog", "Broker", "Deliver", "Event", "MemoryBroker"]

ID = re.compile(r"([0-9]{1,20})-([0-9]{1,20})")
BATCH = 200  # deliveries in one go: at about 5 us each this holds the loop for a millisecond
EVENT, TOPIC = 200, 2000  # bytes that each takes beside its payload
LOGGER = logging.getLogger(__name__)
Key = tuple[int, int]
Now = Callable[[], float]


class Event(NamedTuple):
    id: str  # empty: a reset; what came before may be lost, and all that is kept follows
    payload: bytes


class Backlog(NamedTuple):
    events: Sequence[Event]  # what was missed
    position: str  # the id to resume from if nothing else arrives
    reset: bool  # some of it is no longer kept, or the id is unknown


# Called for one event after the other, in order. It is no coroutine: nobody can hold up the others.
Deliver = Callable[[Event], None]
Page = tuple[Sequence[Event], bool]


class Broker(Protocol):
    """Ids that are malformed or unknown are never an error: they reach back to nothing.

    `publish` appends; the answer bears the id. `page`: the oldest kept events after `after`, and
    whether there are more. `subscribe` delivers while open; its backlog ends where delivery begins.
    """

    async def publish(self, topic: str, payload: bytes) -> Event: ...
    async def page(self, topic: str, after: str | None, limit: int) -> Page: ...
    def subscribe(
        self, topic: str, deliver: Deliver, after: str | None = None
    ) -> AbstractAsyncContextManager[Backlog]: ...


class _Topic:
    def __init__(self, floor: str) -> None:
        self.floor = floor  # every event of the topic with a greater id is still kept
        self.events: deque[Event] = deque()
        self.subscribers: dict[_Subscription, None] = {}  # in the order in which they came
        self.pending, self.turn = 0, asyncio.Lock()

    def shorten(self) -> int:  # by the oldest event, which took so many bytes
        self.floor, payload = self.events.popleft()
        return EVENT + len(payload)


class MemoryBroker:
    """Keeps `history` events a topic; beyond `size` bytes, those used least lose their oldest."""

    def __init__(self, *, history: int = 1000, size: int = 2**28, now: Now = time.time) -> None:
        self._history, self._size, self._now, self._taken = history, size, now, 0
        self._last = (int(now() * 1000), 0)
        self._floor = _text(self._last)
        self._topics: dict[str, _Topic] = {}

    async def publish(self, topic: str, payload: bytes) -> Event:
        """Append and deliver. The publisher waits for a long delivery: that is the backpressure."""
        state = self._open(topic)
        now, (ms, seq) = int(self._now() * 1000), self._last
        self._last = (now, 0) if now > ms else (ms, seq + 1)
        event = Event(_text(self._last), payload)
        state.events.append(event)
        self._taken += EVENT + len(payload)
        if len(state.events) > self._history:
            self._taken -= state.shorten()
        if self._taken > self._size:
            self._make_room()
        if not state.pending and len(state.subscribers) <= BATCH:
            _deliver(tuple(state.subscribers), event)
        else:
            state.pending += 1
            # In a task of its own, so that a publisher that is cancelled leaves nobody without.
            await asyncio.shield(asyncio.create_task(_in_turn(state, event, self._last)))
        return event

    async def page(self, topic: str, after: str | None, limit: int) -> Page:
        events = self._after(topic, _key(after), limit + 1)
        return events[:limit], len(events) > limit

    def subscribe(
        self, topic: str, deliver: Deliver, after: str | None = None
    ) -> AbstractAsyncContextManager[Backlog]:
        return _Subscription(self, topic, deliver, after)

    def _join(self, subscription: "_Subscription") -> Backlog:
        after, topic, key = subscription.after, subscription.topic, _key(subscription.after)
        state = self._open(topic)
        reset = after is not None and not _key(state.floor) <= key <= self._last
        events = [] if after is None else self._after(topic, (0, 0) if reset else key)
        subscription.since = self._last
        state.subscribers[subscription] = None
        return Backlog(events, _text(self._last), reset)

    def _leave(self, subscription: "_Subscription") -> None:
        del self._topics[subscription.topic].subscribers[subscription]
        self._close_unused(subscription.topic)

    def _after(self, topic: str, key: Key, count: int | None = None) -> list[Event]:
        events = self._topics[topic].events if topic in self._topics else deque[Event]()
        first = bisect_right(events, key, key=lambda event: _key(event.id)) if key > (-1, -1) else 0
        return list(islice(events, first, None if count is None else first + count))

    def _open(self, topic: str) -> _Topic:
        # Taken out and put back: the dict is ordered by last use.
        self._taken += 0 if topic in self._topics else TOPIC
        state = self._topics.pop(topic, None) or _Topic(self._floor)
        self._topics[topic] = state
        return state

    def _make_room(self) -> None:
        for topic, state in tuple(self._topics.items()):
            while state.events and self._taken > 0.9 * self._size:  # so that this is rare
                self._taken -= state.shorten()
            self._close_unused(topic)

    def _close_unused(self, topic: str) -> None:
        state = self._topics[topic]
        if not state.events and not state.subscribers:
            self._floor = max(self._floor, self._topics.pop(topic).floor, key=_key)
            self._taken -= TOPIC


@dataclass(slots=True, eq=False)  # a generator would take six times the memory while it is open
class _Subscription:
    broker: MemoryBroker
    topic: str
    deliver: Deliver
    after: str | None
    since: Key = (0, 0)

    async def __aenter__(self) -> Backlog:
        # Of the same module, and nobody else's business.
        return self.broker._join(self)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]

    async def __aexit__(self, *exception: object) -> None:
        self.broker._leave(self)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]


async def _in_turn(state: _Topic, event: Event, key: Key) -> None:
    async with state.turn:
        everybody = tuple(state.subscribers)
        for batch in (everybody[at : at + BATCH] for at in range(0, len(everybody), BATCH)):
            # Whoever came after the event has it from the backlog; whoever left wants none.
            _deliver([s for s in batch if s.since < key and s in state.subscribers], event)
            await asyncio.sleep(0)
    state.pending -= 1


def _deliver(subscribers: "Sequence[_Subscription]", event: Event) -> None:
    for subscriber in subscribers:
        try:
            subscriber.deliver(event)
        except Exception:
            LOGGER.exception("a subscriber failed to take an event")


def _key(text: str | None) -> Key:
    parts = ID.fullmatch(text) if text else None
    return (int(parts[1]), int(parts[2])) if parts else (-1, -1)


def _text(key: Key) -> str:
    return f"{key[0]}-{key[1]}"
