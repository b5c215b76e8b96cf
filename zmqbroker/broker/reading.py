"""Reading the events of a store without a position of one's own: nothing is touched, and nothing is remembered.

Everything here costs what is found, however many events the store keeps. Nobody looks at bodies.
"""

from __future__ import annotations

from zmqbroker.broker.queue import Queue
from zmqbroker.broker.ranges import Range
from zmqbroker.broker.records import BatchRecord
from zmqbroker.commands import Piece, Receipt

__all__ = ["NOBODY", "events_from"]

#: What a receipt of an event says that was only read: no assignment has this number.
NOBODY = 0


def events_from(queue: Queue, first: int, count_max: int, size_max: int, pieces_max: int) -> tuple[Piece, ...]:
    """Up to so many live events from a sequence on, ascending, in so many pieces at most.

    They count at most `size_max` bytes (`BatchRecord.received_size`), but the first. An event that is delayed comes in its
    place like all others: an order that a reader can go on in has no place for one that comes later.
    """
    pieces: list[Piece] = []
    count, room = count_max, size_max
    for batch in queue.batches.starting(first, pieces_max):
        total = batch.last - batch.first + 1
        for low, high in _live(queue, max(first, batch.first), batch):
            wanted = min(high - low + 1, count)
            fitting = max(batch.value.fitting(wanted, room, total), 0 if pieces else 1)
            if fitting <= 0:
                return tuple(pieces)
            pieces.append(_piece(batch, low, fitting))
            count -= fitting
            room -= batch.value.received_size(fitting, total)
            if fitting < wanted or not count or len(pieces) == pieces_max:
                return tuple(pieces)
    return tuple(pieces)


def _live(queue: Queue, first: int, batch: Range[BatchRecord]) -> list[tuple[int, int]]:
    """The live messages of a batch from a sequence on, as neighbours."""
    if batch.value.live == batch.last - batch.first + 1:  # as a rule
        return [(first, batch.last)]
    spans = [(part.first, part.last) for part in queue.ready.overlapping(first, batch.last)]
    spans += [(part.first, part.last) for part in queue.groups.parked.overlapping(first, batch.last)]
    spans += [(part.first, part.last) for part in queue.delayed.overlapping(first, batch.last)]
    return sorted((max(low, first), min(high, batch.last)) for low, high in spans)


def _piece(batch: Range[BatchRecord], first: int, count: int) -> Piece:
    record, offset = batch.value, first - batch.first
    return Piece(
        receipt=Receipt(NOBODY, first, first + count - 1),
        delivery_count=0,
        time_unix_ns=record.time_unix_ns,
        index=record.index,
        position=record.position,
        size=record.size,
        low=record.low + offset,
        origin=record.origin_at(offset),
    )


def first_event(queue: Queue) -> int:
    """The sequence of the oldest live event; the one that the next event will have when there is none."""
    return next((batch.first for batch in queue.batches), queue.next_sequence)


def last_event(queue: Queue) -> int:
    """The sequence of the newest live event; the one that the next event will have when there is none."""
    batch = queue.batches.last_below(queue.next_sequence)
    if batch is None:
        return queue.next_sequence
    return _live(queue, batch.first, batch)[-1][1]


def event_since(queue: Queue, since_unix_ns: int) -> int:
    """The sequence of the first event that was stored at an instant or later; that of the next one when there is none.

    By bisection: what is stored later has a later instant, but for what has been moved here, which keeps its own.
    """
    low, high = first_event(queue), queue.next_sequence
    while low < high:
        middle = (low + high) // 2
        batch = queue.batches.next_from(middle)
        if batch is None or batch.value.time_unix_ns >= since_unix_ns:
            high = middle
        else:
            low = batch.last + 1
    return low
