"""The verdict on what clients saw (I23): the checkers of the fault tests, over the whole history of every channel.

Source: the shared reference on Raft, §6.7, checkers 1 to 7; `tests/fault/history.py` has them.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from tests.fault.history import History, check
from tests.simulation.line import STORE

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster

__all__ = ["check_histories"]


def check_histories(cluster: Cluster) -> None:
    """Judge every channel. Every queue has been emptied before. Raises `Violation`."""
    for channel, history in cluster.histories.items():
        found = check(history, cluster.machines.messages.channel(channel).last)
        if found:
            cluster.raft.fail("I23", f"channel {channel!r}: " + "; ".join(str(violation) for violation in found))
    for channel, history in cluster.store_histories.items():
        if channel != STORE:
            seen = History(cluster.store_histories[STORE].sends, history.deliveries, history.acks)
            found = check(seen, len(cluster.machines.line.bodies))
            if found:
                cluster.raft.fail("I23", f"consumer {channel!r}: " + "; ".join(str(violation) for violation in found))
    faults = list(islice(cluster.sightings.faults(cluster.machines.messages), 5))
    if faults:
        cluster.raft.fail("I23", "; ".join(faults))
