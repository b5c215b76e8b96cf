"""The leader's clock: the stamps that replicated time is made of (DESIGN §6).

A new leader goes on from the later of the last stamp and its own wall clock, then follows its monotonic clock, so that a wall
clock that jumps moves nothing. Stamps never go back.
"""

from __future__ import annotations

import time

__all__ = ["LeaderClock"]


class LeaderClock:
    """Stamps of one leadership."""

    def __init__(self, last_stamp_unix_ns: int) -> None:
        self._base_unix_ns = max(last_stamp_unix_ns + 1, time.time_ns())
        self._started_ns = time.monotonic_ns()

    def now_unix_ns(self) -> int:
        """Nanoseconds since 1970, never less than any earlier stamp of this or an earlier leadership."""
        return self._base_unix_ns + time.monotonic_ns() - self._started_ns
