"""What the slow model keeps: one object per message and per claim, never forgotten, never merged."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from fractions import Fraction
from typing import NamedTuple

from zmqbroker.commands import BatchHeader, ChannelSettings, Origin, QueueStats, Receive, ReceiveKey

__all__ = ["Answer", "Channel", "Given", "Hold", "KnownProducer", "Message", "Part", "first_step_after", "runs_of"]

MILLISECOND = 1_000_000
STEP = 10 * MILLISECOND


def first_step_after(now: int, delay_ms: int) -> int:
    """Delays and expirations end at whole steps of 10 ms."""
    instant = now + delay_ms * MILLISECOND
    return instant if instant % STEP == 0 else instant - instant % STEP + STEP


class Given(NamedTuple):
    """One message of an answer."""

    assigning: int
    sequence: int
    delivery_count: int
    time: int
    entry: int
    position: int
    size: int
    place: int  # in the frame
    origin: Origin | None


class Answer(NamedTuple):
    """The answer to a receive."""

    key: ReceiveKey
    channel: str
    messages: tuple[Given, ...]


@dataclass(eq=False)
class Part:
    """What messages that were stored by one command, and are treated alike, have in common."""

    index: int
    position: int
    size: int
    time: int
    count: int
    body_bytes: int  # at most: of all of them
    body_size_max: int
    share: int  # of the frame's bytes
    priority: int = 0
    expires: int = 0

    @classmethod
    def of_frame(cls, header: BatchHeader, position: int, size: int, index: int, time: int) -> Part:
        """All of a frame that was just stored."""
        return cls(index, position, size, time, header.count, header.body_bytes, header.body_size_max, size)

    def bytes_of(self, count: int) -> int:
        """What the bodies of so many messages have at most."""
        return min(count * self.body_size_max, self.body_bytes)

    def cost(self, count: int) -> int:
        """What so many messages cost a receive: their bodies, and of the rest of their bytes their share, rounded up."""
        rest = self.share - self.body_bytes
        return self.bytes_of(count) + (math.ceil(Fraction(rest * count, self.count)) if rest > 0 else 0)

    def cut(self, first: int, count: int) -> Part:
        """The part that `count` messages are, from the one at place `first` on, when they are on their own."""
        share = self.share * (first + count) // self.count - self.share * first // self.count
        common = self.index, self.position, self.size, self.time
        return Part(*common, count, self.bytes_of(count), self.body_size_max, share, self.priority, self.expires)


@dataclass(eq=False)
class Hold:
    """A receive that waits (assigning None) or messages that it holds."""

    order: int
    command: Receive
    deadline: int
    assigning: int | None = None

    @property
    def key(self) -> ReceiveKey:
        return self.command.key


@dataclass(eq=False)
class Message:
    """One message: finished (says how), held, delayed (due is not 0), or else ready."""

    sequence: int
    part: Part
    place: int  # in its part
    place_in_frame: int
    deliveries: int = 0
    due: int = 0
    origin: Origin | None = None
    hold: Hold | None = None
    finished: str = ""

    @property
    def is_live(self) -> bool:
        return not self.finished

    @property
    def waits(self) -> bool:
        return not self.finished and self.hold is None

    def has_expired(self, now: int) -> bool:
        return self.part.expires != 0 and self.part.expires <= now


def runs_of(messages: list[Message]) -> list[list[Message]]:
    """Neighbours of one part that are in the same state."""
    found: list[list[Message]] = []
    for message in messages:
        last = found[-1][-1] if found else None
        if last is not None and last.sequence == message.sequence - 1 and _alike(last, message):
            found[-1].append(message)
        else:
            found.append([message])
    return found


def _alike(one: Message, other: Message) -> bool:
    return (one.part, one.deliveries, one.hold, one.due) == (other.part, other.deliveries, other.hold, other.due)


@dataclass(eq=False)
class KnownProducer:
    """Every accepted batch of one producer."""

    used: int
    results: list[tuple[int, int, int, int]] = field(default_factory=list)  # base, count, first, time

    @property
    def last(self) -> int:
        return self.results[-1][0] + self.results[-1][1] - 1 if self.results else 0


@dataclass(eq=False)
class Channel:
    """One channel; message n is at n - 1."""

    name: str
    incarnation: int
    settings: ChannelSettings = field(default_factory=ChannelSettings)
    messages: list[Message] = field(default_factory=list)
    holds: list[Hold] = field(default_factory=list)  # in the order of creation
    producers: dict[int, KnownProducer] = field(default_factory=dict)
    redelivered: int = 0

    def live(self) -> list[Message]:
        return [m for m in self.messages if m.is_live]

    def ready(self) -> list[Message]:
        return [m for m in self.messages if m.waits and not m.due]

    def in_flight(self) -> list[Message]:
        return [m for m in self.messages if m.is_live and m.hold is not None]

    def between(self, first: int, last: int) -> list[Message]:
        return [m for m in self.messages if first <= m.sequence <= last]

    def held(self, hold: Hold) -> list[Message]:
        return [m for m in self.messages if m.is_live and m.hold is hold]

    def waiters(self) -> list[Hold]:
        return [hold for hold in self.holds if hold.assigning is None]

    def parts(self) -> list[Part]:
        """All with a live message, in order."""
        return list(dict.fromkeys(m.part for m in self.messages if m.is_live))

    def ends(self) -> tuple[dict[Part, int], dict[Part, int]]:
        """The first sequence of every part there ever was, and the last."""
        firsts = {m.part: m.sequence for m in reversed(self.messages)}
        return firsts, {m.part: m.sequence for m in self.messages}

    def size_bytes(self) -> int:
        return sum(part.share for part in self.parts())

    def available(self) -> int:
        limit = self.settings.max_in_flight
        return min(len(self.ready()), max(limit - len(self.in_flight()), 0)) if limit else len(self.ready())

    def release(self, messages: list[Message]) -> list[list[Message]]:
        """Take live messages from wherever they are, as runs; holds that hold nothing any more end."""
        runs = runs_of(messages)
        for message in messages:
            message.hold, message.due = None, 0
        self.holds = [hold for hold in self.holds if hold.assigning is None or self.held(hold)]
        return runs

    def finish(self, messages: list[Message], how: str) -> int:
        self.release(messages)
        for message in messages:
            message.finished = how
        return len(messages)

    def stats(self) -> QueueStats:
        finished = Counter(m.finished for m in self.messages)
        return QueueStats(
            channel=self.name,
            incarnation=self.incarnation,
            depth=len(self.live()),
            ready=len(self.ready()),
            in_flight=len(self.in_flight()),
            waiting_receives=len(self.waiters()),
            last_sequence=len(self.messages),
            acked=finished["acked"],
            redelivered=self.redelivered,
            size_bytes=self.size_bytes(),
            delayed=sum(m.waits and m.due != 0 for m in self.messages),
            expired=finished["expired"],
            dead_lettered=finished["dead_lettered"],
            moved=finished["moved"],
            dropped=finished["dropped"],
            oldest_unix_ns=self.live()[0].part.time if self.live() else 0,
        )
