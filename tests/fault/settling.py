"""Messages that are nacked, delayed, rejected, requeued and forgotten while leaders die, and what must be true of them then.

`Settling` is a load in the test's own event loop: a producer and consumers that note what they saw. `faults` finds broken
promises; it judges only what a client could have seen. A settlement that ended in an error may have happened or not, and both
are right.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from zmqbroker import Client
from zmqbroker.client import Message, Queue
from zmqbroker.client.message import Content
from zmqbroker.errors import BrokerError

__all__ = ["DELIVERY_LIMIT", "Seen", "Settling", "faults"]

DELIVERY_LIMIT = 3
VISIBILITY_MS = 1_500
TIMEOUT_MS = 60_000
#: A leader's clock may be ahead of ours by a little, and ends a delay that much too early.
EARLY_NS = 250_000_000
WORK, DEAD, OTHER = "work", "work.dead", "work.other"
#: Message groups; about half of all messages have none. A message that is forgotten holds its group up, so there are many.
GROUPS = 24
#: What a consumer does with a message, and how often.
SHARES = {"ack": 50, "nack": 15, "later": 10, "behind": 5, "reject": 8, "requeue": 7, "forget": 5}


@dataclass(slots=True)
class Seen:
    """Everything that one run saw. A message is known by its number."""

    sent: dict[int, tuple[int, int]] = field(default_factory=dict)  # confirmed: number -> (stored at, delay in ms)
    unknown: set[int] = field(default_factory=set)  # sends whose outcome nobody knows
    groups: dict[int, str] = field(default_factory=dict)  # number -> group, of those that have one: they have no delay
    deliveries: list[tuple[int, int, int, int]] = field(default_factory=list)  # number, sequence, delivery count, unix ns
    ending_ns: dict[tuple[int, int], int] = field(default_factory=dict)  # (number, sequence) -> when its turn may have ended
    acked_ns: dict[int, int] = field(default_factory=dict)  # number -> when its ack in WORK was confirmed
    doubtful: set[int] = field(default_factory=set)  # numbers of which a settlement ended in an error
    dead: list[tuple[int, str, int]] = field(default_factory=list)  # found in DEAD at the end: number, reason, deliveries
    other: list[int] = field(default_factory=list)  # found in OTHER at the end


def faults(seen: Seen) -> list[str]:
    """Broken promises, a sentence each."""
    return [*_fates(seen), *_counts(seen), *_times(seen), *_turns(seen)]


def _fates(seen: Seen) -> Iterator[str]:
    """Every confirmed message has exactly one end."""
    ends = Counter([*seen.acked_ns, *(number for number, _, _ in seen.dead), *seen.other])
    for number in seen.sent:
        if ends[number] == 0 and number not in seen.doubtful:
            yield f"message {number} was confirmed and is nowhere"
    for number, count in ends.items():
        if number not in seen.sent and number not in seen.unknown:
            yield f"message {number} was never sent"
        if count > 1:
            yield f"message {number} has {count} ends"


def _counts(seen: Seen) -> Iterator[str]:
    """Deliveries are counted by one each, and never beyond the limit."""
    by_number: defaultdict[int, list[int]] = defaultdict(list)
    for number, _, count, _ in seen.deliveries:
        by_number[number].append(count)
    for number, counts in by_number.items():
        if len(set(counts)) < len(counts):
            yield f"message {number} was delivered twice under one count: {counts}"
        if max(counts) > DELIVERY_LIMIT:
            yield f"message {number} was delivered more often than {DELIVERY_LIMIT} times: {counts}"
    for number, reason, count in seen.dead:
        if reason == "delivery_limit" and count != DELIVERY_LIMIT:
            yield f"message {number} is dead after {count} deliveries"


def _times(seen: Seen) -> Iterator[str]:
    """Nothing comes before its delay is over, or after its ack was confirmed."""
    for number, sequence, count, at_ns in seen.deliveries:
        stored_ns, delay_ms = seen.sent.get(number, (0, 0))
        if at_ns + EARLY_NS < stored_ns + delay_ms * 1_000_000:
            yield f"message {number} came {stored_ns + delay_ms * 1_000_000 - at_ns} ns too early, at delivery {count}"
        if at_ns > seen.acked_ns.get(number, at_ns):
            yield f"message {number} came again, as {sequence}, after its ack was confirmed"


def _turns(seen: Seen) -> Iterator[str]:
    """Of each group one message at a time is given out, in order, until it is done."""
    spent = {number for number, reason, _ in seen.dead if reason == "delivery_limit"}
    before: dict[str, tuple[int, int, int]] = {}  # by group: the last delivery, without its time
    for number, sequence, count, at_ns in seen.deliveries:
        group = seen.groups.get(number)
        if group is None:
            continue
        other, place, counted = before.get(group, (0, 0, 0))
        if sequence < place:
            yield f"message {number} came, as {sequence}, after {place} of the same group"
        elif place and sequence > place:
            is_over = counted >= DELIVERY_LIMIT or other in spent  # it leaves when it returns, whether it was seen or not
            if not is_over and at_ns < seen.ending_ns.get((other, place), at_ns + 1):
                yield f"message {number} came, as {sequence}, while it was the turn of {place}"
        before[group] = number, sequence, count


class Settling:
    """A producer and consumers; `stop` ends the producer, then the queue is emptied."""

    def __init__(self, url: str, seed: int, consumers: int = 3) -> None:
        self.seen = Seen()
        self._url, self._random, self._consumers = url, random.Random(seed), consumers
        self._stopping = asyncio.Event()
        self._quiet = asyncio.Event()  # consumers ack whatever comes

    @property
    def confirmed(self) -> int:
        """Messages confirmed so far."""
        return len(self.seen.sent)

    def stop(self) -> None:
        """Send nothing more."""
        self._stopping.set()

    async def run(self) -> Seen:
        """Work until `stop`, empty the queue, and look at where messages went."""
        async with Client(self._url, timeout_ms=TIMEOUT_MS) as client:
            await client.channels.create(WORK, delivery_limit=DELIVERY_LIMIT, dead_letter=DEAD)
            consuming = [asyncio.create_task(self._consume(number)) for number in range(self._consumers)]
            await self._produce(client.queue(WORK))
            self._quiet.set()
            for _ in range(600):
                if (await client.queue(WORK).stats())["depth"] == 0:
                    break
                await asyncio.sleep(0.1)
            for task in consuming:
                task.cancel()
            await asyncio.gather(*consuming, return_exceptions=True)
            self.seen.dead = [
                (_number(message), message.origin.reason, message.origin.delivery_count)
                for message in await _all_of(client.queue(DEAD))
                if message.origin is not None
            ]
            self.seen.other = [_number(message) for message in await _all_of(client.queue(OTHER))]
        return self.seen

    async def _produce(self, queue: Queue) -> None:
        number = 0
        while not self._stopping.is_set():
            number += 1
            group = self._random.choice(("", f"group-{self._random.randrange(GROUPS)}"))
            delay_ms = 0 if group else self._random.choice((0, 0, 50, 400))
            if group:
                self.seen.groups[number] = group
            self.seen.unknown.add(number)
            priority, body = self._random.choice((0, 0, 5)), number.to_bytes(8, "big")
            try:
                sent = await queue.send(body, delay_ms=delay_ms, priority=priority, group=group)
            except BrokerError:
                continue
            self.seen.unknown.discard(number)
            self.seen.sent[number] = sent.time_unix_ns, delay_ms

    async def _consume(self, seed: int) -> None:
        chance = random.Random(seed)
        async with Client(self._url, timeout_ms=TIMEOUT_MS) as client:
            queue = client.queue(WORK)
            while True:
                messages = await queue.receive(8, wait_ms=500, visibility_ms=VISIBILITY_MS)
                now_ns = time.time_ns()
                for message in messages:
                    self.seen.deliveries.append((_number(message), message.sequence, message.delivery_count, now_ns))
                for message in messages:
                    what = "ack" if self._quiet.is_set() else chance.choices(list(SHARES), list(SHARES.values()))[0]
                    try:
                        await self._settle(message, what)
                    except BrokerError:
                        self.seen.doubtful.add(_number(message))

    async def _settle(self, message: Message, what: str) -> None:
        if what in ("ack", "behind", "reject", "requeue"):
            self.seen.ending_ns.setdefault((_number(message), message.sequence), time.time_ns())
        match what:
            case "ack":
                await message.ack()
                self.seen.acked_ns[_number(message)] = time.time_ns()
            case "nack":
                await message.nack()
            case "later":
                await message.nack(delay_ms=100)
            case "behind":
                await message.nack(behind=True)
            case "reject":
                await message.reject("on purpose")
            case "requeue":
                await message.requeue(OTHER)


async def _all_of(queue: Queue) -> list[Content]:
    """Everything in a queue."""
    found: list[Content] = []
    while messages := await queue.peek(1000, first=found[-1].sequence + 1 if found else 1):
        found += messages
    return found


def _number(message: Content) -> int:
    return int.from_bytes(message.body, "big")
