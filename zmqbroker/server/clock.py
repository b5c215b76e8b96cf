"""The leader's clock: the stamps that replicated time is made of (DESIGN §6).

A new leader goes on from the later of the last stamp and the median of its quorum's wall clocks, then follows its monotonic
clock; towards its wall clock it moves by a thousandth of the time that passes, no faster. So one clock that jumps neither
expires everything nor freezes time. Stamps never go back.
What an earlier leader has stamped, and this node has only in its log when it begins to lead, it learns as it applies it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Protocol

__all__ = ["Clock", "LeaderClock", "SystemClock", "median_unix_ns"]

#: Towards the wall clock a stamp gains or loses at most one part in so many of the time that passes: a second in 17 minutes,
#: five times what crystals drift, and too little for any timeout to notice.
SLEW_PARTS = 1000


class Clock(Protocol):
    """What a node can know of time."""

    def monotonic_ns(self) -> int:
        """Time since some instant; never goes back."""
        ...

    def wall_unix_ns(self) -> int:
        """Nanoseconds since 1970 as far as this machine knows; may jump either way."""
        ...


class SystemClock:
    """The machine's clocks."""

    def monotonic_ns(self) -> int:
        """CLOCK_MONOTONIC."""
        return time.monotonic_ns()

    def wall_unix_ns(self) -> int:
        """CLOCK_REALTIME."""
        return time.time_ns()


def median_unix_ns(walls: Iterable[int]) -> int:
    """The median of at least one wall clock, the lower one of two: right as long as a majority of the clocks is."""
    ordered = sorted(walls)
    return ordered[(len(ordered) - 1) // 2]


class LeaderClock:
    """Stamps of one leadership."""

    def __init__(self, clock: Clock, last_stamp_unix_ns: int, quorum_unix_ns: int) -> None:
        self._clock = clock
        self._stamp_unix_ns = max(last_stamp_unix_ns + 1, quorum_unix_ns)
        self._read_ns = clock.monotonic_ns()  # when _stamp_unix_ns was right

    def pass_by(self, stamp_unix_ns: int) -> None:
        """Go on from a stamp that was applied, when an earlier leader's clock was ahead of this one."""
        if stamp_unix_ns > self._stamp_unix_ns:
            self._stamp_unix_ns = max(self.now_unix_ns(), stamp_unix_ns)

    def now_unix_ns(self) -> int:
        """Nanoseconds since 1970, never less than any earlier stamp of this or an earlier leadership."""
        now_ns = self._clock.monotonic_ns()
        elapsed = now_ns - self._read_ns
        self._read_ns = now_ns
        ahead = self._stamp_unix_ns + elapsed - self._clock.wall_unix_ns()
        most = elapsed // SLEW_PARTS
        self._stamp_unix_ns += elapsed - max(-most, min(ahead, most))
        return self._stamp_unix_ns
