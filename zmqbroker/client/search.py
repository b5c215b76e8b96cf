"""When every node is asked who leads, while that is in doubt.

At once, then again and again at growing distances: after half the time that the search has lasted, but at least `GAP_LOW_NS`
and at most `GAP_HIGH_NS`; after the first second a tenth of the time, up to once a second. So a new leader is found late by at
most half of the time that it was missing, and a node gets from one client at most `ASKED_FIRST_SECOND` questions in the first
second of a search, and none while it owes the answer to the last one. The distances are spread by a quarter either way, so that
clients that lost the same leader do not ask in step.
"""

from __future__ import annotations

from random import Random

__all__ = ["ASKED_FIRST_SECOND", "GAP_HIGH_NS", "GAP_LOW_NS", "Search"]

_MS = 1_000_000
_FOREVER_NS = 2**63
#: An election is never over sooner: two exchanges and two writes.
GAP_LOW_NS = 10 * _MS
#: A small part of an election timeout, which is what is waited for when it takes longer than that.
GAP_HIGH_NS = 50 * _MS
_SECOND_NS = 1_000 * _MS
#: What the distances above make of a second, with the shortest draw each time.
ASKED_FIRST_SECOND = 32


class Search:
    """The times of one search after the other."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._since_ns: int | None = None  # None: nothing is searched
        self.due_ns = _FOREVER_NS  # when all are to be asked

    @property
    def active(self) -> bool:
        """Whether a leader is being searched."""
        return self._since_ns is not None

    def begin(self, now_ns: int) -> None:
        """Search, from now on if not already."""
        if self._since_ns is None:
            self._since_ns = self.due_ns = now_ns

    def asked(self, now_ns: int) -> None:
        """All have been asked."""
        assert self._since_ns is not None
        elapsed_ns = now_ns - self._since_ns
        if elapsed_ns < _SECOND_NS:
            gap_ns = min(max(elapsed_ns // 2, GAP_LOW_NS), GAP_HIGH_NS)
        else:
            gap_ns = min(elapsed_ns // 10, _SECOND_NS)
        self.due_ns = now_ns + self._random.randint(gap_ns * 3 // 4, gap_ns * 5 // 4)

    def end(self) -> None:
        """There is a leader."""
        self._since_ns, self.due_ns = None, _FOREVER_NS
