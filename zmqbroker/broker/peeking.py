"""Looking at the messages of a channel without touching them."""

from __future__ import annotations

from zmqbroker.broker.queue import Queue
from zmqbroker.broker.ranges import Range
from zmqbroker.broker.records import BatchRecord
from zmqbroker.commands import Piece, Receipt

__all__ = ["NOBODY", "peek"]

#: What a receipt of a message says that was only looked at: no assignment has this number.
NOBODY = 0


def peek(queue: Queue, first: int, since_unix_ns: int, count_max: int, size_max: int) -> tuple[Piece, ...]:
    """Up to so many live messages from a sequence on, ascending, that were stored at an instant or later.

    Ready, delayed and in flight alike, with their deliveries so far. They count at most `size_max` bytes
    (`BatchRecord.received_size`), but the first.
    """
    pieces: list[Piece] = []
    count, room = count_max, size_max
    for batch in queue.batches.overlapping(first, queue.next_sequence):
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


def _live(queue: Queue, first: int, last: int) -> list[Range[int]]:
    """The live messages of first .. last, each range with its deliveries."""
    found = [(part.first, part.last, part.value) for part in queue.ready.overlapping(first, last)]
    found += [(part.first, part.last, part.value.deliveries) for part in queue.delayed.overlapping(first, last)]
    for held in queue.in_flight.overlapping(first, last):
        found += [part for part in held.value.held if part.first <= held.last and held.first <= part.last]
    clipped = (Range(max(low, first), min(high, last), deliveries) for low, high, deliveries in found)
    return sorted(part for part in clipped if part.first <= part.last)


def _piece(part: Range[int], batch: Range[BatchRecord], count: int) -> Piece:
    record, offset = batch.value, part.first - batch.first
    return Piece(
        receipt=Receipt(NOBODY, part.first, part.first + count - 1),
        delivery_count=part.value,
        time_unix_ns=record.time_unix_ns,
        index=record.index,
        position=record.position,
        size=record.size,
        low=record.low + offset,
        origin=record.origin_at(offset),
    )
