"""A cluster that follows a script: for defects which random faults meet too rarely.

Everything is the simulator's own, invariants included; only what happens, and when, is laid down instead of drawn. There are no
clients and no faults but those of the script.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tests.simulation.cluster import Cluster
from tests.simulation.node import SimNode
from tests.simulation.options import Options
from tests.simulation.trace import Trace
from tests.simulation.world import SECOND
from zmqbroker.raft.messages import Role
from zmqbroker.wire import codec
from zmqbroker.wire.entries import EntryBuilder

__all__ = ["Stage"]

#: Longer than any step of a script takes.
_PATIENCE_NS = 10 * SECOND


class Stage:
    """A cluster with a leader, and the steps that scripts are made of."""

    def __init__(self, seed: int, nodes: int, *, keep_entries: int = 0, segment_bytes: int = 1 << 16) -> None:
        options = Options(
            seed=seed,
            nodes=nodes,
            keep_entries=keep_entries,
            segment_bytes=segment_bytes,
            encode=False,
            channels=0,
            producers=0,
            consumers=0,
            readers=0,
        )
        self.cluster = Cluster(options, Trace(), "python -m tests.mutants")
        self.cluster.boot()
        self.nodes = list(self.cluster.nodes.values())

    def until(self, reached: Callable[[], bool]) -> None:
        """Let time pass until something is so."""
        world = self.cluster.world
        end_ns = world.now_ns + _PATIENCE_NS
        while not reached():
            if world.now_ns > end_ns:
                raise TimeoutError("the script does not come true")
            world.step()

    def pause(self, duration_ns: int) -> None:
        """Let so much time pass."""
        end_ns = self.cluster.world.now_ns + duration_ns
        self.until(lambda: self.cluster.world.now_ns >= end_ns)

    def leader_of(self, nodes: Sequence[SimNode]) -> SimNode:
        """The one of these that leads, once it has committed an entry of its own and the others have applied it."""

        def leading() -> list[SimNode]:
            return [node for node in nodes if node.up and node.core.role is Role.LEADER and _settled(node, nodes)]

        self.until(lambda: bool(leading()))
        return leading()[0]

    def others(self, *without: SimNode) -> list[SimNode]:
        """All nodes but these."""
        return [node for node in self.nodes if node not in without]

    def cut(self, one: Sequence[SimNode], other: Sequence[SimNode]) -> None:
        """Let nothing pass between two sides, either way; what is under way is lost."""
        for sender, receiver in _pairs(one, other):
            self.cluster.network.block(sender.id, receiver.id)

    def join(self, one: Sequence[SimNode], other: Sequence[SimNode]) -> None:
        """Let everything pass again."""
        for sender, receiver in _pairs(one, other):
            self.cluster.network.link(sender.id, receiver.id).held.clear()
            self.cluster.network.open(sender.id, receiver.id)

    def propose(self, leader: SimNode, count: int, body_bytes: int = 10) -> int:
        """Append entries at a leader; the last one's index."""
        index = 0
        for _ in range(count):
            builder = EntryBuilder()
            builder.add_publish(codec.encode_batch(b"c1", [bytes(body_bytes)], 0, 0), 0)
            index = leader.core.propose(builder.build(leader.group.clock.now_unix_ns()))
            leader.pump()
        return index

    def divide(self, *, entries: int = 20, stalled: bool = False) -> tuple[SimNode, SimNode, SimNode]:
        """Of five, the leader and one more get entries that nobody else gets; then the other three have a leader of their own.

        Returns the old leader, the one beside it, and the new leader. With `stalled` the disk of the second stands still for
        seconds when it gets the entries.
        """
        old = self.leader_of(self.nodes)
        beside, *rest = self.others(old)
        self.cut([old, beside], rest)
        if stalled:
            beside.sync_delay_ns = lambda: 2 * SECOND  # type: ignore[method-assign]
        last_index = self.propose(old, entries)
        self.until(lambda: (beside.core.last_index if stalled else beside.watch.durable.last_index) == last_index)
        self.cut([old], [beside])
        return old, beside, self.leader_of(rest)


def _settled(leader: SimNode, nodes: Sequence[SimNode]) -> bool:
    core = leader.core
    own = leader.watch.state.log.term_or_none(core.commit_index) == core.term
    return own and all(
        node.core.term == core.term and node.core.applied_index >= core.commit_index for node in nodes if node.up
    )


def _pairs(one: Sequence[SimNode], other: Sequence[SimNode]) -> list[tuple[SimNode, SimNode]]:
    return [pair for here in one for there in other if here is not there for pair in ((here, there), (there, here))]
