"""What clients saw during a run, and what may not have happened.

A `History` holds every send, delivery and ack with the times at which it was begun and answered, on one monotonic clock of the
machine. `check` finds what the broker promises never to do (docs/GUARANTEES.md); it judges nothing that a client could not have
seen itself. A *value* is (producer, number): each is sent once by the application and travels in the body of its message.
Source: the shared reference on Raft, section 6.7, checkers 1 to 7. All checks are O(n log n).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from itertools import pairwise
from operator import attrgetter
from pathlib import Path

__all__ = [
    "Ack",
    "Delivery",
    "History",
    "Kind",
    "Outcome",
    "Send",
    "Value",
    "Violation",
    "body_of",
    "check",
    "read",
    "value_of",
    "write",
]

#: A message as the application knows it: the producer's name and a number counted up by it.
Value = tuple[str, int]

#: Violations of one kind that are spelled out; the rest is counted.
_SHOWN_MAX = 5


class Outcome(Enum):
    """How a send ended for the application."""

    CONFIRMED = "confirmed"
    REFUSED = "refused"  # an error whose outcome is known: it is not stored
    UNKNOWN = "unknown"  # an error with an unknown outcome, or no end at all


class Kind(Enum):
    """What must not happen."""

    LOST = "an acknowledged message was never delivered"
    UNEXPECTED = "a message was delivered that nobody sent"
    REFUSED_VISIBLE = "a message was delivered although its send was refused for good"
    ENQUEUED_TWICE = "one message has several sequences"
    SEQUENCE_SHARED = "one sequence has several messages"
    MISPLACED = "a message was confirmed at another sequence than it was delivered with"
    REDELIVERED = "a message was delivered again after its ack had completed"
    PRODUCER_ORDER = "a producer's messages are not in the order in which it sent them"
    REAL_TIME_ORDER = "a message whose send began after another's confirm stands before it"
    HOLE = "a sequence of the queue was never delivered"


@dataclass(slots=True, frozen=True)
class Send:
    """One send of an application. `number` counts up in the order of the calls."""

    producer: str
    number: int
    outcome: Outcome
    invoke_ns: int
    complete_ns: int  # 0 when it never ended
    sequence: int = 0  # 0 unless it was confirmed

    @property
    def value(self) -> Value:
        """What was sent."""
        return self.producer, self.number


@dataclass(slots=True, frozen=True)
class Delivery:
    """One message that reached a consumer."""

    sequence: int
    producer: str
    number: int
    delivery_count: int
    time_ns: int

    @property
    def value(self) -> Value:
        """What was delivered."""
        return self.producer, self.number


@dataclass(slots=True, frozen=True)
class Ack:
    """One ack of a delivered message."""

    sequence: int
    delivery_count: int  # of the delivery that it acks
    invoke_ns: int
    complete_ns: int  # 0 unless it was confirmed


@dataclass(slots=True)
class History:
    """Everything that the clients of one run saw."""

    sends: list[Send] = field(default_factory=list)
    deliveries: list[Delivery] = field(default_factory=list)
    acks: list[Ack] = field(default_factory=list)

    def __add__(self, other: History) -> History:
        return History(self.sends + other.sends, self.deliveries + other.deliveries, self.acks + other.acks)

    @property
    def confirmed(self) -> list[Send]:
        """Sends that were confirmed."""
        return [send for send in self.sends if send.outcome is Outcome.CONFIRMED]


@dataclass(slots=True, frozen=True)
class Violation:
    """One broken promise."""

    kind: Kind
    text: str

    def __str__(self) -> str:
        return f"{self.kind.value}: {self.text}"


# --- checking --------------------------------------------------------------------------------------------------------


def check(history: History, last_sequence: int | None = None) -> list[Violation]:
    """Every broken promise, at most a few of each kind spelled out.

    The queue must have been emptied, or LOST means "not delivered yet". With `last_sequence`, the queue's own count of what
    it ever stored, a sequence that nobody was given is a HOLE.
    """
    found = [
        *_values(history),
        *_places(history),
        *_redeliveries(history),
        *_producer_order(history),
        *_real_time_order(history),
    ]
    if last_sequence is not None:
        delivered = {delivery.sequence for delivery in history.deliveries}
        missing = [sequence for sequence in range(1, last_sequence + 1) if sequence not in delivered]
        found += [Violation(Kind.HOLE, f"{sequence}") for sequence in missing]
    return list(_shortened(found))


def _shortened(found: Iterable[Violation]) -> Iterator[Violation]:
    counts: Counter[Kind] = Counter()
    for violation in found:
        counts[violation.kind] += 1
        if counts[violation.kind] <= _SHOWN_MAX:
            yield violation
    for kind, count in counts.items():
        if count > _SHOWN_MAX:
            yield Violation(kind, f"and {count - _SHOWN_MAX} more")


def _values(history: History) -> Iterator[Violation]:
    """What was acknowledged is delivered; what was delivered had been sent, and not refused."""
    delivered = {delivery.value for delivery in history.deliveries}
    sends = {send.value: send for send in history.sends}
    for value, send in sends.items():
        if send.outcome is Outcome.CONFIRMED and value not in delivered:
            yield Violation(Kind.LOST, f"{value} at sequence {send.sequence}")
    for value in sorted(delivered):
        if value not in sends:
            yield Violation(Kind.UNEXPECTED, f"{value}")
        elif sends[value].outcome is Outcome.REFUSED:
            yield Violation(Kind.REFUSED_VISIBLE, f"{value}")


def _places(history: History) -> Iterator[Violation]:
    """One value per sequence and one sequence per value, in what was delivered and in what was confirmed."""
    sequences: defaultdict[Value, set[int]] = defaultdict(set)
    values: defaultdict[int, set[Value]] = defaultdict(set)
    for delivery in history.deliveries:
        sequences[delivery.value].add(delivery.sequence)
        values[delivery.sequence].add(delivery.value)
    for send in history.confirmed:
        values[send.sequence].add(send.value)
        places = sequences.get(send.value, {send.sequence})
        if send.sequence not in places:
            yield Violation(Kind.MISPLACED, f"{send.value}: confirmed at {send.sequence}, delivered at {sorted(places)}")
    for value, places in sequences.items():
        if len(places) > 1:
            yield Violation(Kind.ENQUEUED_TWICE, f"{value} at {sorted(places)}")
    for sequence, holders in values.items():
        if len(holders) > 1:
            yield Violation(Kind.SEQUENCE_SHARED, f"{sequence} by {sorted(holders)}")


def _redeliveries(history: History) -> Iterator[Violation]:
    """No delivery after a completed ack of the same or an earlier delivery of the message.

    An older delivery than the acked one may still arrive late: it was made before the ack.
    """
    completed: defaultdict[int, list[Ack]] = defaultdict(list)
    for ack in history.acks:
        if ack.complete_ns:
            completed[ack.sequence].append(ack)
    for delivery in history.deliveries:
        for ack in completed.get(delivery.sequence, ()):
            if delivery.time_ns > ack.complete_ns and delivery.delivery_count >= ack.delivery_count:
                late_ms = (delivery.time_ns - ack.complete_ns) / 1e6
                count = delivery.delivery_count
                yield Violation(Kind.REDELIVERED, f"sequence {delivery.sequence}, delivery {count}, {late_ms:.1f} ms after it")
                break


def _producer_order(history: History) -> Iterator[Violation]:
    """Of one producer, sequences increase with its numbers."""
    placed: defaultdict[str, set[tuple[int, int]]] = defaultdict(set)
    for delivery in history.deliveries:
        placed[delivery.producer].add((delivery.number, delivery.sequence))
    for send in history.confirmed:
        placed[send.producer].add((send.number, send.sequence))
    for producer, places in sorted(placed.items()):
        for (number, sequence), (later, later_sequence) in pairwise(sorted(places)):
            if number < later and sequence >= later_sequence:
                text = f"{producer}: {number} at {sequence}, {later} at {later_sequence}"
                yield Violation(Kind.PRODUCER_ORDER, text)


def _real_time_order(history: History) -> Iterator[Violation]:
    """If one send was confirmed before another began, it has the lower sequence (linearizability of an append)."""
    latest: Send | None = None  # the send that began last among those with a lower sequence
    for send in sorted(history.confirmed, key=attrgetter("sequence")):
        if latest is not None and send.complete_ns < latest.invoke_ns and send.sequence > latest.sequence:
            text = f"{latest.value} at {latest.sequence} began after {send.value} at {send.sequence} was confirmed"
            yield Violation(Kind.REAL_TIME_ORDER, text)
        if latest is None or send.invoke_ns > latest.invoke_ns:
            latest = send


# --- bodies and files ------------------------------------------------------------------------------------------------


def body_of(value: Value, size: int = 0) -> bytes:
    """The body that carries a value, filled up to `size` bytes."""
    producer, number = value
    return f"{producer} {number} ".encode().ljust(size, b".")


def value_of(body: bytes) -> Value:
    """The value in a body; what is none of ours becomes a value that nobody sent."""
    producer, _, rest = body.partition(b" ")
    number, _, _ = rest.partition(b" ")
    if not number.isdigit():
        return f"not ours: {body[:40]!r}", 0
    return producer.decode(errors="replace"), int(number)


def write(path: Path, history: History) -> None:
    """Write a history as lines of text, so that another process, or a person, can read it."""
    with path.open("w", encoding="utf-8") as file:
        for s in history.sends:
            file.write(f"send {s.producer} {s.number} {s.outcome.value} {s.invoke_ns} {s.complete_ns} {s.sequence}\n")
        for d in history.deliveries:
            file.write(f"delivery {d.sequence} {d.producer} {d.number} {d.delivery_count} {d.time_ns}\n")
        for a in history.acks:
            file.write(f"ack {a.sequence} {a.delivery_count} {a.invoke_ns} {a.complete_ns}\n")


def read(path: Path) -> History:
    """Read what `write` wrote."""
    history = History()
    with path.open(encoding="utf-8") as file:
        for line in file:
            kind, *rest = line.split()
            if kind == "send":
                numbers = [int(part) for part in rest[3:]]
                history.sends.append(Send(rest[0], int(rest[1]), Outcome(rest[2]), *numbers))
            elif kind == "delivery":
                count, time_ns = int(rest[3]), int(rest[4])
                history.deliveries.append(Delivery(int(rest[0]), rest[1], int(rest[2]), count, time_ns))
            else:
                assert kind == "ack", f"{path}: not a line of a history: {line!r}"
                history.acks.append(Ack(*(int(part) for part in rest)))
    return history
