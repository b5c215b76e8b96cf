"""Messages that leave a channel for another one: dead-lettered, requeued, redriven. Only their place moves, never a body."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from zmqbroker.broker.channels import Channels
from zmqbroker.broker.queue import Queue
from zmqbroker.broker.ranges import Range
from zmqbroker.broker.records import BatchRecord, Moment, aged
from zmqbroker.commands import ANY_INCARNATION, Delivery, Origin

__all__ = ["DELIVERY_LIMIT", "OVERFLOW", "REDRIVEN", "REQUEUED", "Served", "dead_letter", "move"]

#: Reasons that are the broker's own; a consumer's are what it says.
DELIVERY_LIMIT, OVERFLOW, REQUEUED, REDRIVEN = "delivery_limit", "overflow", "requeued", "redriven"


class Served:
    """The queues that got messages in one command. They are served when all that returns has returned (`machine`, Receipts)."""

    def __init__(self) -> None:
        self._queues: dict[int, Queue] = {}

    def add(self, queue: Queue) -> None:
        """A queue may have something for those who wait."""
        self._queues[queue.number] = queue

    def deliver(self, moment: Moment) -> list[Delivery]:
        """Serve all of them."""
        return [delivery for queue in self._queues.values() for delivery in queue.serve(moment)]


def move(
    source: Queue,
    parts: Iterable[Range[int]],
    target: Queue,
    reason: str,
    moment: Moment,
    served: Served,
    *,
    expiring: bool = False,
    due_unix_ns: int = 0,
) -> int:
    """Store messages of `source` that are live and nowhere behind all others of `target`; returns how many.

    They are new there: not delivered yet, and they expire no more unless `expiring` says so, or the age that the target's
    settings allow, which begins now. In the same queue they stay as they were. They are ready at `due_unix_ns`, 0: at once.
    """
    count = 0
    for part in parts:
        for sequence, record in _moving(source, part):
            count += record.live
            deliveries = part.value if source is target else 0
            if source is not target:
                origin = Origin(source.name, sequence, part.value, reason)
                expires_unix_ns = aged(record.expires_unix_ns if expiring else 0, target.settings, moment.now_unix_ns)
                record = replace(record, origin=origin, expires_unix_ns=expires_unix_ns)
            target.append(record, deliveries, due_unix_ns)
        source.leave(part, source.limits.moved_max)
    served.add(source)
    served.add(target)
    return count


def _moving(source: Queue, part: Range[int]) -> list[tuple[int, BatchRecord]]:
    """The records of messages as they would be elsewhere, each with the sequence of its first message here."""
    found: list[tuple[int, BatchRecord]] = []
    for first, last, record in source.batches.overlapping(part.first, part.last):
        low, high = max(first, part.first), min(last, part.last)
        found.append((low, record.part(low - first, high - low + 1, last - first + 1)))
    return found


def dead_letter(
    channels: Channels, source: Queue, parts: list[Range[int]], reason: str, moment: Moment, served: Served
) -> bool:
    """Move messages that are live and nowhere to the dead-letter channel of `source`.

    False where that cannot be made: they are ready again, since nothing is lost for want of a channel.
    """
    target = channels.find_or_create(source.settings.dead_letter, ANY_INCARNATION, moment) if parts else source
    if isinstance(target, Queue):
        source.counters.dead_lettered += move(source, parts, target, reason, moment, served)
        return True
    source.put_back(parts)
    return False
