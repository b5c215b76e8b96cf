"""Looking at the messages of a channel without touching them."""

from __future__ import annotations

from typing import NamedTuple

from zmqbroker.broker.queue import Queue
from zmqbroker.broker.ranges import Range
from zmqbroker.broker.records import BatchRecord
from zmqbroker.commands import Peeked, Receipt

__all__ = ["NOBODY", "peek"]

#: What a receipt of a message says that was only looked at: no assignment has this number.
NOBODY = 0


class _Live(NamedTuple):
    """Neighbours that are in the same state."""

    first: int
    last: int
    deliveries: int
    state: str = "ready"
    due_unix_ns: int = 0


def peek(queue: Queue, first: int, since_unix_ns: int, count_max: int, size_max: int) -> tuple[Peeked, ...]:
    """Up to so many live messages from a sequence on, ascending, that were stored at an instant or later.

    In whatever state, with their deliveries so far. They count at most `size_max` bytes (`BatchRecord.received_size`), but the
    first.
    """
    pieces: list[Peeked] = []
    count, room = count_max, size_max
    for batch in queue.batches.upward(first):  # an events store may have any number, and few are looked at
        if batch.value.time_unix_ns < since_unix_ns:
            continue
        for part in _live(queue, max(first, batch.first), batch.last):
            wanted, total = min(part.last - part.first + 1, count), batch.last - batch.first + 1
            fitting = max(batch.value.fitting(wanted, room, total), 0 if pieces else 1)
            if fitting <= 0 or count <= 0:
                return tuple(pieces)
            pieces.append(_piece(part, batch, fitting))
            count -= fitting
            room -= batch.value.received_size(fitting, total)
            if fitting < wanted:
                return tuple(pieces)
    return tuple(pieces)


def _live(queue: Queue, first: int, last: int) -> list[_Live]:
    """The live messages of first .. last, ascending."""
    found = [_Live(*part) for part in queue.ready.overlapping(first, last)]
    found += [_Live(*part, "parked") for part in queue.groups.parked.overlapping(first, last)]
    for low, high, later in queue.delayed.overlapping(first, last):
        found.append(_Live(low, high, later.deliveries, "delayed", later.due_unix_ns))
    for held in queue.in_flight.overlapping(first, last):
        parts = (part for part in held.value.held if part.first <= held.last and held.first <= part.last)
        found += [_Live(*part, "in_flight") for part in parts]
    clipped = (part._replace(first=max(part.first, first), last=min(part.last, last)) for part in found)
    return sorted(part for part in clipped if part.first <= part.last)


def _piece(part: _Live, batch: Range[BatchRecord], count: int) -> Peeked:
    record, offset = batch.value, part.first - batch.first
    return Peeked(
        receipt=Receipt(NOBODY, part.first, part.first + count - 1),
        delivery_count=part.deliveries,
        time_unix_ns=record.time_unix_ns,
        index=record.index,
        position=record.position,
        size=record.size,
        low=record.low + offset,
        origin=record.origin_at(offset),
        state=part.state,
        due_unix_ns=part.due_unix_ns,
    )
