"""What a node's disk must hold, kept apart from the node: the log as a list of terms, and the hard state.

A `DurableLog` is moved on by the works that the disk said it synced, never by what the node believes. Works that were written
and not synced are kept beside it: after a power cut any first part of their records may be there, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from zmqbroker.raft.messages import Entry, HardState, Snapshot, StorageAppend
from zmqbroker.raft.view import LogView

__all__ = ["DurableLog"]

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

    __slots__ = ("base", "base_term", "pending", "term", "terms", "vote", "votes")

    def __init__(self) -> None:
        self.term = 0
        self.vote = 0
        self.votes: dict[int, int] = {}  # term -> vote, of every term
        self.base = 0  # index of a snapshot that stands for everything up to it
        self.base_term = 0
        self.terms: list[int] = []  # of the entries base + 1 ...
        self.pending: list[StorageAppend] = []  # written, not synced

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

    def synced(self) -> None:
        """Everything that was written is durable."""
        pending, self.pending = self.pending, []
        for record in records_of(pending):
            self._apply(record)

    def _apply(self, record: Record) -> None:
        if isinstance(record, Entry):
            del self.terms[record.index - self.base - 1 :]
            self.terms.append(record.term)
        elif isinstance(record, HardState):
            self.term, self.vote = record.term, record.vote
            if record.vote:
                self.votes[record.term] = record.vote
        else:
            self.base, self.base_term, self.terms = record.index, record.term, []

    def recover(self, view: LogView, *, whole: bool) -> str:
        """Compare with what a start found and take it over; what is wrong with it, or nothing.

        With `whole` everything written must be there (the machine did not fail), else at least everything synced.
        """
        records, self.pending = list(records_of(self.pending)), []
        if whole:
            for record in records:
                self._apply(record)
            records = []
        expected = self._describe()
        fault = self._differs(view)
        for record in records:
            if not fault:
                break
            self._apply(record)
            fault = self._differs(view)
        return fault and f"{fault}; synced were {expected}, {len(records)} more records had been written"

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
