"""What the slow model keeps: one object per message and per claim, never forgotten, never merged."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import NamedTuple

from zmqbroker.commands import BatchHeader, ChannelSettings, Origin, QueueStats, Receive, ReceiveKey

__all__ = [
    "Answer",
    "Channel",
    "Given",
    "Hold",
    "KnownProducer",
    "Message",
    "Part",
    "Sighting",
    "Turn",
    "end_of_wait",
    "first_step_after",
    "groups_of",
    "runs_of",
    "window_is_over",
]

MILLISECOND = 1_000_000
STEP = 10 * MILLISECOND


def first_step_after(now: int, delay_ms: int) -> int:
    """Delays and expirations end at whole steps of 10 ms."""
    instant = now + delay_ms * MILLISECOND
    return instant if instant % STEP == 0 else instant - instant % STEP + STEP


def window_is_over(came: int, window_ms: int, now: int) -> bool:
    """A window ends at whole steps: of a 64th of it, or of 10 ms if that is more."""
    step = max(STEP, window_ms * MILLISECOND // 64)
    end = came + window_ms * MILLISECOND
    return end + (step - end % step if end % step else 0) <= now


def end_of_wait(now: int, wait_ms: int) -> int:
    """Waits of 64 ms and more end at whole steps: the power of two that is at most a thirty-second part of them."""
    step = max(power for power in range(17) if power == 0 or 2**power * 32 <= wait_ms)
    end = now + wait_ms * MILLISECOND
    while step and end % (2**step * MILLISECOND):
        end += 2**step * MILLISECOND - end % (2**step * MILLISECOND)
    return end


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
    group: str = ""

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
        said = self.priority, self.expires, self.group
        return Part(*common, count, self.bytes_of(count), self.body_size_max, share, *said)


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
class Turn:
    """It is a consumer's turn: it gets all messages, until the deadline if there is one."""

    session: bytes
    consumer: int
    visibility_ms: int
    order: int = 0
    deadline: int = 0

    def of(self, key: ReceiveKey) -> bool:
        return (key.session, key.consumer) == (self.session, self.consumer)


@dataclass(eq=False)
class Message:
    """One message: finished (says how), held, delayed (due is not 0), parked (of a group, and not its turn), or else ready."""

    sequence: int
    part: Part
    place: int  # in its part
    place_in_frame: int
    deliveries: int = 0
    due: int = 0
    origin: Origin | None = None
    hold: Hold | None = None
    finished: str = ""
    has_turn: bool = False  # of the messages of its group; from then on until it is finished

    @property
    def is_live(self) -> bool:
        return not self.finished

    @property
    def waits(self) -> bool:
        return not self.finished and self.hold is None

    @property
    def is_due(self) -> bool:
        return self.waits and self.due == 0

    @property
    def is_ready(self) -> bool:
        return self.is_due and (self.has_turn or not self.part.group)

    def share(self) -> int:
        """Its bytes of the frame."""
        return self.part.share * (self.place + 1) // self.part.count - self.part.share * self.place // self.part.count

    def has_expired(self, now: int) -> bool:
        return self.part.expires != 0 and self.part.expires <= now


def groups_of(messages: list[Message]) -> list[list[Message]]:
    """Messages that follow each other without a gap."""
    found: list[list[Message]] = []
    for message in messages:
        if found and found[-1][-1].sequence == message.sequence - 1:
            found[-1].append(message)
        else:
            found.append([message])
    return found


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
class Sighting:
    """One batch that came with ids: when, the ids of its messages that are stored, which of its others are not."""

    first: int
    came: int
    ids: dict[bytes, int]  # to the sequences
    duplicates: tuple[tuple[int, int], ...]  # of a batch that may be repeated


@dataclass(eq=False)
class Channel:
    """One channel; message n is at n - 1."""

    name: str
    incarnation: int
    settings: ChannelSettings = field(default_factory=ChannelSettings)
    messages: list[Message] = field(default_factory=list)
    holds: list[Hold] = field(default_factory=list)  # in the order of creation
    producers: dict[int, KnownProducer] = field(default_factory=dict)
    sightings: list[Sighting] = field(default_factory=list)
    redelivered: int = 0
    sent: int = 0
    sent_bytes: int = 0
    delivered: int = 0
    delivered_bytes: int = 0
    turn: Turn | None = None

    def live(self) -> list[Message]:
        return [m for m in self.messages if m.is_live]

    def ready(self) -> list[Message]:
        return [m for m in self.messages if m.is_ready]

    def parked(self) -> list[Message]:
        return [m for m in self.messages if m.is_due and not m.is_ready]

    def add(self, messages: list[Message]) -> None:
        """Append new ones."""
        self.messages += messages
        self.take_turns()

    def take_turns(self) -> None:
        """In every group without a message that has the turn, the oldest that is due gets it."""
        taken = {m.part.group for m in self.messages if m.is_live and m.has_turn}
        for message in self.messages:
            if message.part.group and message.is_due and message.part.group not in taken:
                message.has_turn = True
                taken.add(message.part.group)

    def in_flight(self) -> list[Message]:
        return [m for m in self.messages if m.is_live and m.hold is not None]

    def between(self, first: int, last: int) -> list[Message]:
        return [m for m in self.messages if first <= m.sequence <= last]

    def held(self, hold: Hold) -> list[Message]:
        return [m for m in self.messages if m.is_live and m.hold is hold]

    def waiters(self) -> list[Hold]:
        """In the order in which they are served."""
        waiting = [hold for hold in self.holds if hold.assigning is None]
        return sorted(waiting, key=lambda hold: -hold.command.consumer_priority)

    def parts(self) -> list[Part]:
        """All with a live message, in order."""
        return list(dict.fromkeys(m.part for m in self.messages if m.is_live))

    def ends(self) -> tuple[dict[Part, int], dict[Part, int]]:
        """The first sequence of every part there ever was, and the last."""
        firsts = {m.part: m.sequence for m in reversed(self.messages)}
        return firsts, {m.part: m.sequence for m in self.messages}

    def size_bytes(self) -> int:
        return sum(part.share for part in self.parts())

    def available_to(self, key: ReceiveKey) -> int:
        mine = not self.settings.single_active or (self.turn is not None and self.turn.of(key))
        return self.available() if mine else 0

    def available(self) -> int:
        limit = self.settings.max_in_flight
        return min(len(self.ready()), max(limit - len(self.in_flight()), 0)) if limit else len(self.ready())

    def forget_ids(self, now: int, most: int) -> None:
        """Of the batches that came with ids only those within the window, and the last ones with so many ids together."""
        window_ms = self.settings.dedup_window_ms
        self.sightings = [s for s in self.sightings if window_ms and not window_is_over(s.came, window_ms, now)]
        while sum(len(s.ids) + len(s.duplicates) for s in self.sightings) > most:
            del self.sightings[0]

    def duplicates(self, ids: Sequence[bytes]) -> tuple[tuple[int, int], ...]:
        """Places of messages whose id was stored, with its sequence."""
        known = (
            {id: sequence for s in self.sightings for id, sequence in s.ids.items()} if self.settings.dedup_window_ms else {}
        )
        found = []
        for place, id in enumerate(ids if self.settings.dedup_window_ms else ()):
            if id in known:
                found.append((place, known[id]))
            elif id:
                known[id] = len(self.messages) + 1 + place
        return tuple(found)

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
        self.take_turns()
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
            parked=len(self.parked()),
            deduplicated=finished["deduplicated"],
            sent=self.sent,
            sent_bytes=self.sent_bytes,
            delivered=self.delivered,
            delivered_bytes=self.delivered_bytes,
            consumers=len({(hold.key.session, hold.key.consumer) for hold in self.holds}),
            active=(self.turn.session, self.turn.consumer) if self.turn else None,
        )
