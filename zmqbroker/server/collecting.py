"""Python's garbage collector, kept from stopping a node that has much state.

A full collection looks at every object that may be part of a cycle: 1.7 s with 110,000 channels, in which a node misses
heartbeats and loses its leadership. What has survived one that took long is frozen: no later one looks at it, so that each
costs what was made since. State is freed by reference counts all the same; a frozen cycle would stay for ever, so a channel
that is deleted breaks its own (`Timetable.clear`).
"""

from __future__ import annotations

import gc
import time
from typing import Any

__all__ = ["LONG_S", "freeze_what_takes_long"]

#: Half a tick: a full collection that takes longer freezes what it has found alive.
LONG_S = 0.010


def freeze_what_takes_long(long_s: float = LONG_S) -> None:
    """From now on freeze what a full collection has found alive, whenever it has taken longer than that."""
    began_s = 0.0

    def told(phase: str, about: dict[str, Any]) -> None:
        nonlocal began_s
        if phase == "start":
            began_s = time.perf_counter()
        elif about["generation"] == 2 and time.perf_counter() - began_s > long_s:
            gc.freeze()

    gc.callbacks.append(told)
