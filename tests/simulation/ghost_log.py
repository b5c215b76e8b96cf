"""What a node's disk must hold, kept apart from the node: the log as a list of terms, and the hard state.

A `DurableLog` is moved on by the works that the disk holds durably, as an onlooker sees it, never by what the node believes.
Works that are only written are kept beside it: after a power cut any first part of their records may be there, and no more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from zmqbroker.raft.messages import Entry, HardState, Snapshot, StorageAppend
from zmqbroker.raft.view import LogView

__all__ = ["DurableLog"]

#: Number of a work whose write has not ended.
_UNWRITTEN = 1 << 62

Record = HardState | Snapshot | Entry


def records_of(works: Iterable[StorageAppend]) -> Iterator[Record]:
    """The records of works in the order in which a log writes them."""
    for work in works:
        if work.hard_state is not None:
            yield work.hard_state
        if work.snapshot is not None:
            yield work.snapshot
        yield from work.entries


class DurableLog:
    """One node's durable state, and what is on its way there."""

    __slots__ = ("base", "base_term", "pending", "reached", "term", "terms", "vote", "votes")

    def __init__(self) -> None:
        self.term = 0
        self.vote = 0
        self.votes: dict[int, int] = {}  # term -> vote, of every term
        self.reached: dict[int, int] = {}  # term -> last index that was durable in it, before the log was cut for another
        self.base = 0  # index of a snapshot that stands for everything up to it
        self.base_term = 0
        self.terms: list[int] = []  # of the entries base + 1 ...
        self.pending: list[tuple[int, StorageAppend]] = []  # not durable; with the number of the disk's write that ended each

    @property
    def last_index(self) -> int:
        """The last durable index."""
        return self.base + len(self.terms)

    def term_at(self, index: int) -> int | None:
        """Term of a durable entry; None where there is none or a snapshot stands for it."""
        if index == self.base:
            return self.base_term
        if self.base < index <= self.last_index:
            return self.terms[index - self.base - 1]
        return None

    def holds(self, index: int, term: int) -> bool:
        """True when the entry, or a snapshot that contains it, is durable."""
        return index < self.base or self.term_at(index) == term

    def writing(self, works: Sequence[StorageAppend]) -> None:
        """Works are about to be written."""
        self.pending.extend((_UNWRITTEN, work) for work in works)

    def written(self, works: Sequence[StorageAppend], write: int) -> None:
        """They are written; `write` is the number of the disk's last write."""
        del self.pending[-len(works) :]
        self.pending.extend((write, work) for work in works)

    def durable(self, write: int) -> None:
        """The disk holds all writes up to this one durably."""
        pending = self.pending
        if pending and pending[0][0] <= write:
            count = 0
            for number, work in pending:
                if number > write:
                    break
                count += 1
                self._apply_all((work,))
            del pending[:count]

    def _apply_all(self, works: Iterable[StorageAppend]) -> None:
        for record in records_of(works):
            self._apply(record)

    def _apply(self, record: Record) -> None:
        if isinstance(record, Entry):
            del self.terms[record.index - self.base - 1 :]
            self.terms.append(record.term)
        elif isinstance(record, HardState):
            self.reached[self.term] = self.last_index
            self.term, self.vote = record.term, record.vote
            if record.vote:
                self.votes[record.term] = record.vote
        else:
            self.base, self.base_term, self.terms = record.index, record.term, []

    def recover(self, view: LogView, *, whole: bool) -> str:
        """Compare with what a start found and take it over; what is wrong with it, or nothing.

        With `whole` everything written must be there (the disk's machine did not fail), else at least everything durable.
        """
        pending, self.pending = self.pending, []
        if whole:
            self._apply_all(work for number, work in pending if number < _UNWRITTEN)
            pending = [item for item in pending if item[0] >= _UNWRITTEN]
        records = list(records_of(work for _, work in pending))
        expected = self._describe()
        fault = self._differs(view)
        for record in records:
            if not fault:
                break
            self._apply(record)
            fault = self._differs(view)
        return fault and f"{fault}; synced were {expected}, {len(records)} more records may have been written"

    def _describe(self) -> str:
        return f"term {self.term}, vote {self.vote}, last index {self.last_index}"

    def _differs(self, view: LogView) -> str:
        state = view.hard_state()
        if (state.term, state.vote) != (self.term, self.vote):
            return f"found term {state.term} and vote {state.vote}"
        if view.last_index() != self.last_index:
            return f"found last index {view.last_index()}"
        for index in range(max(view.first_index() - 1, self.base), self.last_index + 1):
            if view.term(index) != self.term_at(index):
                return f"found term {view.term(index)} at index {index} instead of {self.term_at(index)}"
        return ""
