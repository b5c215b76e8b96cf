"""Which ready messages a receive gets, and what its delivery says of them. Knows no time and changes nothing but `ready`."""

from __future__ import annotations

from zmqbroker.broker.claims import Assignment
from zmqbroker.broker.ranges import Range, RangeMap
from zmqbroker.broker.ready import Ready
from zmqbroker.broker.records import BatchRecord
from zmqbroker.commands import Piece, Receipt

__all__ = ["pieces_of", "take_fitting"]


def take_fitting(ready: Ready, batches: RangeMap[BatchRecord], count: int, size: int) -> tuple[list[Range[int]], int]:
    """Take what fits out of `ready`, highest priority first, with the deliveries so far; ascending by sequence.

    That is up to `count` messages in up to `size` bytes, as `received_size` counts them; the first one fits whatever its size.
    Beside them, their share of the bytes of their frames.
    """
    if not ready.lanes:
        last, _, _, share_bytes = _choose(ready, batches, count, size, is_first=True)
        return ready.cut(1, last) if last else [], share_bytes
    taken: list[Range[int]] = []
    share_bytes = 0
    for lane in ready.in_order():
        last, count, size, more_bytes = _choose(lane, batches, count, size, is_first=not taken)
        share_bytes += more_bytes
        if last:
            for part in [Range(1, last, 0)] if lane is ready else lane.overlapping(1, last):
                taken += ready.cut(part.first, min(part.last, last))
    taken.sort()
    return taken, share_bytes


def _choose(
    lane: RangeMap[int], batches: RangeMap[BatchRecord], count: int, size: int, *, is_first: bool
) -> tuple[int, int, int, int]:
    """The sequence up to which messages of a lane fit (0: none does), count and size left then, and their share of bytes."""
    chosen = share_bytes = 0
    for start, stop, _ in lane if count > 0 else ():
        end = min(stop, start + count - 1)
        for low, high, record in batches.overlapping(start, end):
            first = start if start > low else low
            last = end if end < high else high
            total = high - low + 1
            fitting = record.fitting(last - first + 1, size, total)
            if is_first:
                fitting, is_first = max(fitting, 1), False
            if fitting > 0:
                chosen = first + fitting - 1
                total = high - low + 1
                share_bytes += record.share_bytes if fitting == total else record.share_of(first - low, fitting, total)
                count -= fitting
                size -= record.received_size(fitting, total)
            if fitting <= 0 or chosen < last:
                return chosen, 0, size, share_bytes  # what comes behind must not overtake what did not fit
        if count == 0:
            break
    return chosen, count, size, share_bytes


def pieces_of(batches: RangeMap[BatchRecord], assignments: list[Assignment], *, prioritized: bool) -> tuple[Piece, ...]:
    """What a receive holds, by priority, then by sequence; unless `prioritized`, no message has a priority."""
    if not prioritized and len(assignments) == 1:
        (only,) = assignments
        return tuple([_piece(only, part, batch) for part in only.held for batch in batches.overlapping(part.first, part.last)])
    found = [
        (assignment, part, batch)
        for assignment in assignments
        for part in assignment.held
        for batch in batches.overlapping(part.first, part.last)
    ]
    found.sort(key=_place)
    return tuple([_piece(*place) for place in found])


def _place(found: tuple[Assignment, Range[int], Range[BatchRecord]]) -> tuple[int, int]:
    _, held, batch = found
    return -batch.value.priority, max(held.first, batch.first)


def _piece(assignment: Assignment, held: Range[int], batch: Range[BatchRecord]) -> Piece:
    low, high, record = batch
    first = held.first if held.first > low else low
    origin = record.origin and record.origin_at(first - low)
    receipt = Receipt(assignment.assigning, first, held.last if held.last < high else high)
    index, position, size, low = record.index, record.position, record.size, record.low + first - low
    return Piece(receipt, held.value, record.time_unix_ns, index, position, size, low, origin)
