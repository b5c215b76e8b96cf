"""How long a node's disk work takes: counts by length since the start, to be subtracted from each other by whoever asks twice.

A node keeps no percentiles: those of which stretch of time they are is for the reader to say, and several may read. Lengths are
told to one part in sixteen, in a few hundred counts whatever happens (docs/PROTOCOL.md §7, `durations`). Used on the node's
loop only.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Durations", "Histogram", "timed"]

#: Lengths between two powers of two are told apart by this many bits.
_FINE_BITS = 4
#: Longer ones count as this: a minute, after which a node has other worries than a percentile.
_US_MAX = (1 << 26) - 1


class Histogram:
    """Counts of lengths, by the longest length in microseconds that is counted together with them."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()  # bound -> count; at most 16 bounds between two powers of two
        self._count = self._sum_us = 0

    def note(self, length_ns: int) -> None:
        """Count one length."""
        length_us = min(length_ns // 1000, _US_MAX)
        shift = max(length_us.bit_length() - _FINE_BITS - 1, 0)
        self._counts[(((length_us >> shift) + 1) << shift) - 1] += 1
        self._count += 1
        self._sum_us += length_us

    def fields(self) -> dict[str, object]:
        """As NODE has it."""
        return {"count": self._count, "sum_us": self._sum_us, "buckets": [list(pair) for pair in sorted(self._counts.items())]}


class Durations:
    """What a node measures, each under the name that NODE has for it."""

    def __init__(self, log_write: Histogram | None = None) -> None:
        self.log_write = log_write or Histogram()  # from the loop's wish to its knowledge that the work is durable
        self.state_flush = Histogram()  # one commit of changed state, waiting for the store's thread included
        self.bodies_stored = Histogram()  # one chunk of bodies that leave the log, likewise
        self.bodies_dropped = Histogram()  # one deletion of bodies that nobody needs, likewise

    def fields(self) -> dict[str, dict[str, object]]:
        """As NODE has them."""
        return {name: histogram.fields() for name, histogram in vars(self).items()}


@contextmanager
def timed(histogram: Histogram) -> Iterator[None]:
    """Count how long the block takes, unless it fails."""
    started_ns = time.monotonic_ns()
    yield
    histogram.note(time.monotonic_ns() - started_ns)
