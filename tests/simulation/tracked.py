"""What the message ledger keeps of one message and of one channel, and what it reads of the channel of a machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from zmqbroker.broker.queue import Queue
from zmqbroker.commands import ChannelSettings, Command, Origin, Publish, PublishAll, PublishedAll, Result

__all__ = ["Body", "ChannelLedger", "Place", "Tracked", "due_after", "places_in", "sends_of"]

#: Entry, position of the batch frame in it, place in the frame.
Body = tuple[int, int, int]

_MS = 1_000_000
_STEP = 10 * _MS


def due_after(now_unix_ns: int, delay_ms: int) -> int:
    """When a delay or an expiry ends: at a whole step of 10 ms."""
    instant = now_unix_ns + delay_ms * _MS
    return instant + -instant % _STEP


class Tracked:
    """One message. It waits, is held (`assigning`), or is over (`ended`)."""

    __slots__ = (
        *("acked_under", "assigning", "body", "channel", "consumer", "count", "deadline", "due", "ended", "expires", "origin"),
        *("sequence", "session"),
    )

    def __init__(self, body: Body, channel: str, sequence: int, due: int, expires: int) -> None:
        self.body = body
        self.channel = channel
        self.sequence = sequence  # there; 0 while that is not known, after it was moved
        self.count = 0  # deliveries there
        self.due = due  # 0: at once
        self.expires = expires  # 0: never
        self.origin: Origin | None = None
        self.assigning = 0  # 0: nobody holds it
        self.session = b""
        self.consumer = 0
        self.deadline = 0
        self.ended = ""
        self.acked_under = 0  # the receipt of the ack that ended it

    def is_expired(self, now_unix_ns: int) -> bool:
        """Whether its time is over."""
        return 0 < self.expires <= now_unix_ns

    def __repr__(self) -> str:
        state = self.ended or (f"held under {self.assigning}" if self.assigning else f"due {self.due}")
        return f"<message {self.body} in {self.channel!r} at {self.sequence}, count {self.count}, {state}>"


class ChannelLedger:
    """One channel."""

    __slots__ = ("at", "counts", "held", "last", "live", "may_drop", "name", "settings")

    def __init__(self, name: str) -> None:
        self.name = name
        self.settings = ChannelSettings()
        self.live: dict[Tracked, None] = {}
        self.at: dict[int, Tracked] = {}  # of the live ones those whose sequence is known
        self.last = 0  # highest sequence that is known
        self.held = 0
        self.counts: Counter[str] = Counter()  # how messages left it
        self.may_drop = False  # with this entry, for a send that would exceed a bound

    @property
    def is_bounded(self) -> bool:
        """Whether a send may push others out."""
        settings = self.settings
        return bool(settings.max_messages or settings.max_bytes) and settings.overflow != "reject"

    def put(self, message: Tracked) -> None:
        """A message comes."""
        self.live[message] = None
        if message.sequence:
            self.at[message.sequence] = message
            self.last = message.sequence

    def take(self, message: Tracked, how: str) -> None:
        """A message is here no more."""
        del self.live[message]
        if message.sequence:
            del self.at[message.sequence]
        self.counts[how] += 1

    def put_behind(self, message: Tracked) -> None:
        """A message gets another sequence."""
        if message.sequence:
            del self.at[message.sequence]
        message.sequence = 0
        self.counts["moved"] += 1

    def learn(self, message: Tracked, sequence: int) -> None:
        """The sequence of a message that was moved is known now."""
        message.sequence = sequence
        self.at[sequence] = message
        self.last = max(self.last, sequence)


class Place(NamedTuple):
    """Where a machine has a message."""

    sequence: int
    body: Body
    is_held: bool
    deliveries: int  # so far; of a message that is held -1
    due: int


def sends_of(command: Command, result: Result) -> list[tuple[Publish, Result]]:
    """The batches of a command, each with what became of it; none where it has none, or nobody says."""
    if isinstance(command, Publish):
        return [(command, result)]
    if not isinstance(command, PublishAll) or not isinstance(result, PublishedAll):
        return []
    return [(batch, told) for batch, (_, told) in zip(command.batches, result.results, strict=True)]


def places_in(queue: Queue) -> Iterator[Place]:
    """Every live message of a channel."""
    waiting = [(part.first, part.last, False, part.value, 0) for part in queue.ready]
    waiting += [(part.first, part.last, False, part.value.deliveries, part.value.due_unix_ns) for part in queue.delayed]
    for first, last, is_held, count, due in (*waiting, *((part.first, part.last, True, -1, 0) for part in queue.in_flight)):
        for low, high, record in queue.batches.overlapping(first, last):
            for sequence in range(max(first, low), min(last, high) + 1):
                body = record.index, record.position, record.low + sequence - low
                yield Place(sequence, body, is_held, count, due)
