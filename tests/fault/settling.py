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
from zmqbroker.errors import BrokerError

__all__ = ["DELIVERY_LIMIT", "Seen", "Settling", "faults"]

DELIVERY_LIMIT = 3
VISIBILITY_MS = 1_500
TIMEOUT_MS = 60_000
#: A leader's clock may be ahead of ours by a little, and ends a delay that much too early.
EARLY_NS = 250_000_000
WORK, DEAD, OTHER = "work", "work.dead", "work.other"
#: What a consumer does with a message, and how often.
SHARES = {"ack": 50, "nack": 15, "later": 10, "behind": 5, "reject": 8, "requeue": 7, "forget": 5}


@dataclass(slots=True)
class Seen:
    """Everything that one run saw. A message is known by its number."""

    sent: dict[int, tuple[int, int]] = field(default_factory=dict)  # confirmed: number -> (stored at, delay in ms)
    unknown: set[int] = field(default_factory=set)  # sends whose outcome nobody knows
    deliveries: list[tuple[int, int, int, int]] = field(default_factory=list)  # number, sequence, delivery count, unix ns
    acked_ns: dict[int, int] = field(default_factory=dict)  # number -> when its ack in WORK was confirmed
    doubtful: set[int] = field(default_factory=set)  # numbers of which a settlement ended in an error
    dead: list[tuple[int, str, int]] = field(default_factory=list)  # found in DEAD at the end: number, reason, deliveries
    other: list[int] = field(default_factory=list)  # found in OTHER at the end


def faults(seen: Seen) -> list[str]:
    """Broken promises, a sentence each."""
    return [*_fates(seen), *_counts(seen), *_times(seen)]


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
            delay_ms = self._random.choice((0, 0, 0, 50, 400))
            self.seen.unknown.add(number)
            try:
                sent = await queue.send(number.to_bytes(8, "big"), delay_ms=delay_ms, priority=self._random.choice((0, 0, 5)))
            except BrokerError:
                continue
            self.seen.unknown.discard(number)
            self.seen.sent[number] = sent.time_unix_ns, delay_ms

    async def _consume(self, seed: int) -> None:
        chance = random.Random(seed)
        async with Client(self._url, timeout_ms=TIMEOUT_MS) as client:
            queue = client.queue(WORK)
            while True:
                for message in await queue.receive(8, wait_ms=500, visibility_ms=VISIBILITY_MS):
                    number, now_ns = _number(message), time.time_ns()
                    self.seen.deliveries.append((number, message.sequence, message.delivery_count, now_ns))
                    what = "ack" if self._quiet.is_set() else chance.choices(list(SHARES), list(SHARES.values()))[0]
                    try:
                        await self._settle(message, what)
                    except BrokerError:
                        self.seen.doubtful.add(number)

    async def _settle(self, message: Message, what: str) -> None:
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


async def _all_of(queue: Queue) -> list[Message]:
    """Everything in a queue; it stays there."""
    found: list[Message] = []
    while messages := await queue.receive(1000, visibility_ms=600_000):
        found += messages
    return found


def _number(message: Message) -> int:
    return int.from_bytes(message.body, "big")
