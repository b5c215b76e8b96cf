"""Which ready messages a receive gets, and what its delivery says of them. Knows no time and changes nothing but `ready`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from zmqbroker.broker.claims import Assignment
from zmqbroker.broker.ranges import Range, RangeMap
from zmqbroker.broker.ready import Ready
from zmqbroker.broker.records import BatchRecord
from zmqbroker.commands import Piece, Receipt

__all__ = ["Room", "pieces_of", "take_fitting"]


@dataclass(slots=True)
class Room:
    """What one receive may still be given."""

    count: int
    size: int  # bytes of bodies
    is_empty: bool = True  # nothing was chosen yet: the first message fits whatever its size


def take_fitting(ready: Ready, batches: RangeMap[BatchRecord], room: Room) -> list[Range[int]]:
    """Take what fits out of `ready`, highest priority first, with the deliveries so far; ascending by sequence."""
    taken: list[Range[int]] = []
    for lane in ready.lanes():
        last = _last_to_take(lane, batches, room)
        if last:
            for part in [Range(1, last, 0)] if lane is ready else lane.overlapping(1, last):
                taken += ready.cut(part.first, min(part.last, last))
    taken.sort()
    return taken


def _last_to_take(lane: RangeMap[int], batches: RangeMap[BatchRecord], room: Room) -> int:
    """The sequence up to which messages of a lane fit the room, which gets smaller; 0 when none does."""
    chosen = 0
    for part in lane if room.count > 0 else ():
        end = min(part.last, part.first + room.count - 1)
        for batch in batches.overlapping(part.first, end):
            first, last = max(batch.first, part.first), min(batch.last, end)
            count = max(batch.value.fitting(last - first + 1, room.size), 1 if room.is_empty else 0)
            if count > 0:
                chosen, room.is_empty = first + count - 1, False
                room.count -= count
                room.size -= batch.value.size_at_most(count)
            if count <= 0 or chosen < last:
                room.count = 0  # what comes behind must not overtake what did not fit
                return chosen
        if room.count == 0:
            return chosen
    return chosen


def pieces_of(batches: RangeMap[BatchRecord], assignments: Iterable[Assignment]) -> tuple[Piece, ...]:
    """What a receive holds, by priority, then by sequence."""
    found = [
        (-batch.value.priority, max(part.first, batch.first), _piece(assignment, part, batch))
        for assignment in assignments
        for part in assignment.held
        for batch in batches.overlapping(part.first, part.last)
    ]
    found.sort(key=_place)
    return tuple(piece for _, _, piece in found)


def _place(found: tuple[int, int, Piece]) -> tuple[int, int]:
    return found[:2]


def _piece(assignment: Assignment, held: Range[int], batch: Range[BatchRecord]) -> Piece:
    first, record = max(held.first, batch.first), batch.value
    return Piece(
        receipt=Receipt(assignment.assigning, first, min(held.last, batch.last)),
        delivery_count=held.value,
        time_unix_ns=record.time_unix_ns,
        index=record.index,
        position=record.position,
        size=record.size,
        low=record.low + first - batch.first,
        origin=record.origin_at(first - batch.first),
    )
