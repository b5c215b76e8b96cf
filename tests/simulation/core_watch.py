"""The real core with two ears: the invariants see what it hands to its log, and answered reads are kept for the node."""

from __future__ import annotations

from tests.simulation.invariants import NodeWatch, RaftWatch
from zmqbroker.raft import RaftCore
from zmqbroker.raft.messages import ReadState, Ready

__all__ = ["WatchedCore"]


class WatchedCore(RaftCore):
    """Changes nothing of what the core does."""

    __slots__ = ("raft_watch", "reads", "watch")

    raft_watch: RaftWatch
    watch: NodeWatch
    reads: list[ReadState]  # answered, and not taken by the node yet

    def ready(self) -> Ready:
        """As `RaftCore.ready`."""
        self.raft_watch.observe(self.watch)
        ready = super().ready()
        if ready.append is not None:
            self.raft_watch.appended(self.watch, ready.append)
        if ready.read_states:
            self.reads.extend(ready.read_states)
        return ready
