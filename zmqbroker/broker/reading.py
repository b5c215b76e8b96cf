"""Reading the events of a store without a position of one's own: nothing is touched, and nothing is remembered.

Everything here costs what is found, however many events the store keeps. Nobody looks at bodies.
"""

from __future__ import annotations

from zmqbroker.broker.ranges import Range
from zmqbroker.broker.records import BatchRecord
from zmqbroker.broker.store import EventsStore
from zmqbroker.commands import Piece, Receipt

__all__ = ["NOBODY", "events_from"]

#: What a receipt of an event says that was only read: no assignment has this number.
NOBODY = 0


def events_from(store: EventsStore, first: int, count_max: int, size_max: int, pieces_max: int) -> tuple[Piece, ...]:
    """Up to so many live events from a sequence on, ascending, in so many pieces at most.

    They count at most `size_max` bytes (`BatchRecord.received_size`), but the first.
    """
    pieces: list[Piece] = []
    count, room = count_max, size_max
    for batch in store.batches.starting(first, pieces_max):
        total = batch.last - batch.first + 1
        for low, high in _live(store, max(first, batch.first), batch):
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


def _live(store: EventsStore, first: int, batch: Range[BatchRecord]) -> list[tuple[int, int]]:
    """The live events of a batch from a sequence on, as neighbours."""
    if batch.value.live == batch.last - batch.first + 1:  # as a rule
        return [(first, batch.last)]
    parts = store.ready.overlapping(first, batch.last)
    return [(max(low, first), min(high, batch.last)) for low, high, _ in parts]


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
