"""What clients saw of channels with rules, and the verdict on it (I23): each message that was confirmed ends once.

Messages move there, so the checkers of `tests/fault/history.py`, which know a message by its sequence, cannot judge them: what
was sent is still in order, but what is delivered is known by its value alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from operator import attrgetter
from typing import NamedTuple

from tests.fault.history import Delivery, History, Kind, Outcome, Send, Value, check
from tests.simulation.message_ledger import MessageLedger

__all__ = ["AckSeen", "Seen", "Sightings"]


class Seen(NamedTuple):
    """A message that reached a consumer."""

    value: Value
    channel: str
    assigning: int


class AckSeen(NamedTuple):
    """A message whose ack was confirmed."""

    value: Value
    channel: str
    sequence: int
    assigning: int


@dataclass(slots=True)
class Sightings:
    """Everything that was seen, of all channels with rules and of their dead-letter channels."""

    sends: defaultdict[str, list[Send]] = field(default_factory=lambda: defaultdict(list))  # by channel
    seen: list[Seen] = field(default_factory=list)
    acks: list[AckSeen] = field(default_factory=list)

    def faults(self, messages: MessageLedger) -> Iterator[str]:
        """What is wrong, in words."""
        values = {seen.value for seen in self.seen}
        sent = {send.value: send for sends in self.sends.values() for send in sends}
        for value in sorted(values):
            if value not in sent:
                yield f"{Kind.UNEXPECTED.value}: {value}"
            elif sent[value].outcome is Outcome.REFUSED:
                yield f"{Kind.REFUSED_VISIBLE.value}: {value}"
        for channel, sends in self.sends.items():
            yield from _places(channel, sends)
            for send in sends:
                if send.outcome is Outcome.CONFIRMED:
                    yield from _ending(channel, send, messages, send.value in values)
        yield from self._redeliveries(messages)

    def _redeliveries(self, messages: MessageLedger) -> Iterator[str]:
        """After an ack that finished a message nobody is given it; every other ack that was confirmed came after such a one.

        But for one that comes when its message has left for a dead-letter channel, has expired or was dropped: it is in vain.
        The ledger lets no ack be served while its message is there and another holds it (I16), so it came afterwards.
        """
        latest: defaultdict[Value, int] = defaultdict(int)
        for seen in self.seen:
            latest[seen.value] = max(latest[seen.value], seen.assigning)
        for ack in self.acks:
            message = messages.places[ack.channel, ack.sequence]
            if message.ended in ("expired", "dropped"):
                continue
            if latest[ack.value] > max(message.acked_under, ack.assigning):
                yield f"{Kind.REDELIVERED.value}: {ack}, {message}, the latest delivery is {latest[ack.value]}"


def _places(channel: str, sends: list[Send]) -> Iterator[str]:
    """Where messages are stored first is as in any other channel."""
    confirmed = [send for send in sends if send.outcome is Outcome.CONFIRMED]
    stored = [Delivery(send.sequence, send.producer, send.number, 1, 0) for send in confirmed]
    yield from (f"{channel!r}: {fault}" for fault in check(History(confirmed, stored)))
    for one, other in pairwise(sorted(confirmed, key=attrgetter("sequence"))):
        if one.sequence == other.sequence:
            yield f"{channel!r}: {Kind.SEQUENCE_SHARED.value}: {one} and {other}"


def _ending(channel: str, send: Send, messages: MessageLedger, was_seen: bool) -> Iterator[str]:
    message = messages.places.get((channel, send.sequence))
    if message is None:
        yield f"{channel!r}: {Kind.LOST.value}: {send}"
    elif message.ended == "acked" and not was_seen:
        yield f"{channel!r}: {message} was acked and never delivered: {send}"
