"""Which bodies go from the log to the store, and how far the log may be trimmed: decisions, which `state_flusher` carries out.

The body of a message that waits stays in the log while that has room. When the log is over its budget the live bodies of its
oldest segments move to the store, and a mark says that all up to an index are there: up to there the log is needed for no
body. What is live is asked of the state that is about to be stored, not of a later one: after a crash the messages that were
finished in between are live again until the log was replayed (DESIGN §5, "Bodies stay in the log").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice, takewhile

from zmqbroker.broker import Machine

__all__ = ["Move", "chunks", "plan_move", "trimmable"]

#: Bodies of one plan: to list them takes the loop a few milliseconds.
MOVED_COUNT = 16_384


@dataclass(slots=True, frozen=True)
class Move:
    """Bodies that are to be stored, in this order."""

    indexes: tuple[int, ...]  # ascending, not empty
    upto: int  # when all are stored, so are all live bodies up to here


def plan_move(machine: Machine, mark: int, target: int) -> Move | None:
    """What must be stored for the log to be trimmed up to `target`; None when no live body above `mark` is in the way.

    Nothing above what is applied, or what some member does not hold yet.
    """
    upto = min(target, machine.applied_index, machine.trimmed_index)
    indexes = tuple(islice(takewhile(lambda index: index <= upto, machine.live_indexes(mark)), MOVED_COUNT))
    if not indexes:
        return None
    return Move(indexes, indexes[-1] if len(indexes) == MOVED_COUNT else upto)


def trimmable(machine: Machine, mark: int) -> int:
    """How far the log may be trimmed once this state is stored, the bodies up to `mark` being in the store."""
    index = min(machine.trimmed_index, machine.applied_index)
    live = machine.lowest_live_index(mark)
    return index if live is None else min(index, live - 1)


def chunks(move: Move, read: Callable[[int], bytes], bytes_max: int) -> Iterator[tuple[list[tuple[int, bytes]], int]]:
    """The bodies in chunks, each ended by the body that brings it to `bytes_max`, and the mark when that chunk is stored."""
    found: list[tuple[int, bytes]] = []
    size = 0
    for index in move.indexes:
        if size >= bytes_max:
            yield found, found[-1][0]
            found, size = [], 0
        found.append((index, read(index)))
        size += len(found[-1][1])
    yield found, move.upto
