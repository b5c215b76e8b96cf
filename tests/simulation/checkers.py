"""The verdict on what clients saw (I23): the checkers of the fault tests, over the whole history of every channel.

Source: the shared reference on Raft, §6.7, checkers 1 to 7; `tests/fault/history.py` has them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.fault.history import check

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster

__all__ = ["check_histories"]


def check_histories(cluster: Cluster) -> None:
    """Judge every channel. Every queue has been emptied before. Raises `Violation`."""
    for channel, history in cluster.histories.items():
        finished = cluster.machines.channel(channel).finished
        found = check(history, max(finished, default=0))
        if found:
            cluster.raft.fail("I23", f"channel {channel!r}: " + "; ".join(str(violation) for violation in found))
