"""Where the entries of one group lie in the log: the durable ones, by index.

Numbers in arrays (12 bytes an entry) and terms as runs, because a node may hold millions of entries. Knows no files and no
payloads, and refuses gaps.

Invariants: positions grow with the index, since an entry replaces all at its index and after; the term of first_index - 1
is known, because the next AppendEntries may name it (Raft §5.3).
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right

from zmqbroker.errors import Compacted
from zmqbroker.raft.messages import HardState

__all__ = ["OFFSET_BITS", "GroupIndex"]

#: A position is (segment sequence << OFFSET_BITS) | offset in its file.
OFFSET_BITS = 32


class GroupIndex:
    """Positions, sizes and terms of first_index ... last_index, and the hard state."""

    __slots__ = ("_boundary_term", "_positions", "_sizes", "_term_starts", "_terms", "first_index", "hard_state")

    def __init__(self) -> None:
        self.hard_state = HardState()
        self.first_index = 1
        self._boundary_term = 0  # term of first_index - 1
        self._positions = array("Q")
        self._sizes = array("I")
        self._term_starts = array("Q")  # first index of each run of equal terms, as bisect needs it
        self._terms = array("Q")

    @property
    def last_index(self) -> int:
        """The highest index held; first_index - 1 when there is none."""
        return self.first_index + len(self._positions) - 1

    def reset(self, index: int, term: int) -> None:
        """Forget all entries: the log begins after `index`, which has `term`."""
        self.truncate(self.first_index)
        self.first_index = index + 1
        self._boundary_term = term

    def truncate(self, index: int) -> None:
        """Forget the entries at `index` and after."""
        count = index - self.first_index
        del self._positions[count:]
        del self._sizes[count:]
        while self._term_starts and self._term_starts[-1] >= index:
            self._term_starts.pop()
            self._terms.pop()
        if not count:
            del self._term_starts[:]
            del self._terms[:]

    def append(self, index: int, term: int, position: int, size: int) -> None:
        """Put an entry at `index`, in the place of all that is there and after; `index` is at most last_index + 1."""
        assert self.first_index <= index <= self.last_index + 1, (self.first_index, index, self.last_index)
        if index <= self.last_index:
            self.truncate(index)
        self._positions.append(position)
        self._sizes.append(size)
        if not self._terms or self._terms[-1] != term:
            self._term_starts.append(index)
            self._terms.append(term)

    def locate(self, index: int) -> tuple[int, int, int]:
        """Segment sequence, offset and payload size of the entry at `index`. Raises Compacted below first_index."""
        self.check_held(index)
        slot = index - self.first_index
        position = self._positions[slot]
        return position >> OFFSET_BITS, position & ((1 << OFFSET_BITS) - 1), self._sizes[slot]

    def term(self, index: int) -> int:
        """Term of the entry at `index`, first_index - 1 included. Raises Compacted below that."""
        if index == self.first_index - 1:
            return self._boundary_term
        self.check_held(index)
        return self._terms[bisect_right(self._term_starts, index) - 1]

    def check_held(self, index: int) -> None:
        """Raise Compacted when `index` was dropped."""
        if index < self.first_index:
            raise Compacted(f"index {index} was dropped; the log begins at {self.first_index}")
        assert index <= self.last_index, (index, self.last_index)

    def drop_segment(self, sequence: int) -> int:
        """Forget the entries that lie in segment `sequence` or an older one; returns how many."""
        count = bisect_left(self._positions, (sequence + 1) << OFFSET_BITS)
        if count:
            first_index = self.first_index + count
            self._boundary_term = self.term(first_index - 1)
            runs = bisect_right(self._term_starts, first_index) - 1
            del self._positions[:count]
            del self._sizes[:count]
            del self._term_starts[:runs]
            del self._terms[:runs]
            self.first_index = first_index
        if not self._positions:
            del self._term_starts[:]
            del self._terms[:]
        return count
