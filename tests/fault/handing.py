"""Messages that are handed over from queue to queue while leaders die, and what must be true of them then.

`Handing` is a load in the test's own event loop. It has two chains of three queues: in the orderly one a single worker takes
from each queue what is next, so order must hold to the end; in the busy one workers compete, hold messages for too long and
forget them, so many hand-overs are refused. The first step of either writes a note besides, in the same transaction. `faults`
finds broken promises; it judges only what a client could have seen.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from zmqbroker import Client
from zmqbroker.client import Message, Queue
from zmqbroker.errors import BrokerError, StaleReceipt

__all__ = ["Chain", "Handing", "faults"]

TIMEOUT_MS = 60_000
#: In the busy chain a worker that sleeps for longer has lost its messages.
BUSY_VISIBILITY_MS = 700
STAGES = (0, 1)  # from the first queue to the second, from there to the third


@dataclass(slots=True)
class Chain:
    """What one run saw of one chain. A message is known by its number."""

    orderly: bool
    sent: set[int] = field(default_factory=set)  # confirmed by the first queue
    unknown: set[int] = field(default_factory=set)  # sends whose outcome nobody knows
    told: list[tuple[int, int, int]] = field(default_factory=list)  # by hand-overs: stage, number, sequence behind it
    got: list[tuple[int, int, int]] = field(default_factory=list)  # deliveries: queue 0 to 2, number, sequence there
    notes: list[int] = field(default_factory=list)  # found in the end
    end: list[int] = field(default_factory=list)  # found in the third queue in the end, in order
    stale: int = 0  # hand-overs that were refused since a message was not held any more
    failed: list[str] = field(default_factory=list)  # hand-overs that ended in any other error
    repeats: int = 0  # hand-overs whose answer was that of an earlier attempt


def faults(chain: Chain) -> list[str]:
    """Broken promises, a sentence each."""
    return [*_ends(chain), *_places(chain), *_order(chain)]


def _ends(chain: Chain) -> Iterator[str]:
    """Every confirmed message is at the end once, and so is its note; nothing else is."""
    ends, notes = Counter(chain.end), Counter(chain.notes)
    for number in sorted(chain.sent - ends.keys()):
        yield f"message {number} was confirmed and is not at the end"
    for number in sorted(ends.keys() - chain.sent - chain.unknown):
        yield f"message {number} was never sent"
    for number, count in ends.items():
        if count > 1:
            yield f"message {number} is at the end {count} times"
    for number in sorted(ends.keys() | notes.keys()):
        if (ends[number] > 0) != (notes[number] > 0) or notes[number] > 1:
            yield f"message {number} is at the end {ends[number]} times and has {notes[number]} notes"


def _places(chain: Chain) -> Iterator[str]:
    """A message has one sequence in each queue, which is what its hand-over was told."""
    found: defaultdict[tuple[int, int], set[int]] = defaultdict(set)
    for queue, number, sequence in chain.got:
        found[queue, number].add(sequence)
    for stage, number, sequence in chain.told:
        found[stage + 1, number].add(sequence)
    for (queue, number), sequences in found.items():
        if len(sequences) > 1:
            yield f"message {number} has the sequences {sorted(sequences)} in queue {queue}"


def _order(chain: Chain) -> Iterator[str]:
    """With one worker for each queue nothing overtakes, nothing returns and nothing fails."""
    if not chain.orderly:
        return
    for one, other in zip(chain.end, chain.end[1:], strict=False):
        if one >= other:
            yield f"message {other} is behind message {one}"
    if chain.stale:
        yield f"{chain.stale} hand-overs were refused although their worker held its messages"
    yield from chain.failed


class Handing:
    """Two chains at work; `stop` ends the producers, then the queues are emptied."""

    def __init__(self, url: str, seed: int) -> None:
        self.chains = {"orderly": Chain(True), "busy": Chain(False)}
        self._url, self._seed = url, seed
        self._stopping, self._quiet = asyncio.Event(), asyncio.Event()  # quiet: workers do nothing silly any more

    @property
    def confirmed(self) -> int:
        """Hand-overs that are done so far, in the chain that has done fewer."""
        return min(len(chain.told) for chain in self.chains.values())

    def stop(self) -> None:
        """Send nothing more."""
        self._stopping.set()

    async def run(self) -> dict[str, Chain]:
        """Work until `stop`, let everything arrive, and look at where it is."""
        async with asyncio.TaskGroup() as group:
            producing = [group.create_task(self._produce(name)) for name in self.chains]
            working = [
                group.create_task(self._work(name, stage, worker))
                for name, chain in self.chains.items()
                for stage in STAGES
                for worker in range(1 if chain.orderly else 3)
            ]
            await asyncio.wait(producing)
            self._quiet.set()
            async with Client(self._url, timeout_ms=TIMEOUT_MS) as client:
                for name in self.chains:
                    for stage in STAGES:
                        await _until_empty(client.queue(f"{name}.{stage}"))
                for name, chain in self.chains.items():
                    for message in await _all_of(client.queue(f"{name}.2")):
                        chain.end.append(_number(message))
                        chain.got.append((2, _number(message), message.sequence))
                    chain.notes = [_number(message) for message in await _all_of(client.queue(f"{name}.notes"))]
            for task in working:
                task.cancel()
        return self.chains

    async def _produce(self, name: str) -> None:
        chain, number = self.chains[name], 0
        async with Client(self._url, timeout_ms=TIMEOUT_MS) as client:
            while not self._stopping.is_set():
                number += 1
                chain.unknown.add(number)
                try:
                    await client.queue(f"{name}.0").send(number.to_bytes(8, "big"))
                except BrokerError:
                    continue
                chain.unknown.discard(number)
                chain.sent.add(number)

    async def _work(self, name: str, stage: int, worker: int) -> None:
        chain, chance = self.chains[name], random.Random(self._seed * 100 + stage * 10 + worker)
        visibility_ms = TIMEOUT_MS if chain.orderly else BUSY_VISIBILITY_MS
        async with Client(self._url, timeout_ms=TIMEOUT_MS) as client:
            queue = client.queue(f"{name}.{stage}")
            while True:
                messages = await queue.receive(8, wait_ms=500, visibility_ms=visibility_ms)
                chain.got += [(stage, _number(message), message.sequence) for message in messages]
                silly = chance.random() if not chain.orderly and not self._quiet.is_set() else 1.0
                if silly < 0.05:
                    await asyncio.sleep(BUSY_VISIBILITY_MS / 1000)
                if messages and silly >= 0.02:
                    await self._hand_over(chain, queue, stage, f"{name}.{stage + 1}", messages, f"{name}.notes")

    async def _hand_over(self, chain: Chain, queue: Queue, stage: int, to: str, messages: list[Message], notes: str) -> None:
        step = queue.transaction(*messages)
        for message in messages:
            step.send(to, message.body)
        for message in messages if stage == 0 else ():
            step.send(notes, message.body)
        try:
            await step.commit()
        except StaleReceipt:
            chain.stale += 1
        except BrokerError as error:
            chain.failed.append(f"hand-over failed: {error!r}")
        else:
            chain.repeats += step.results[0].duplicate
            for message, result in zip(messages, step.results, strict=False):
                chain.told.append((stage, _number(message), result.sequence))


async def _until_empty(queue: Queue) -> None:
    for _ in range(600):
        if (await queue.stats())["depth"] == 0:
            return
        await asyncio.sleep(0.1)


async def _all_of(queue: Queue) -> list[Message]:
    """Everything in a queue; it stays there."""
    found: list[Message] = []
    while messages := await queue.receive(1000, visibility_ms=600_000):
        found += messages
    return found


def _number(message: Message) -> int:
    return int.from_bytes(message.body, "big")
