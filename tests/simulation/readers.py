"""Readers: they ask any node how far a channel is, by ReadIndex, and must never be told less than was confirmed before."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.simulation.client import Client
from tests.simulation.node import SimNode
from tests.simulation.world import MILLISECOND

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster

__all__ = ["Reader"]

_INTERVAL_NS = 40 * MILLISECOND


class Reader(Client):
    """One reader; it never waits for an answer before it asks again."""

    def __init__(self, cluster: Cluster, id: int, channel: str) -> None:
        super().__init__(cluster, id)
        self.channel = channel
        self.world.after(self.chance.below(_INTERVAL_NS), self._read)

    def _read(self) -> None:
        self.world.after(_INTERVAL_NS // 2 + self.chance.below(_INTERVAL_NS), self._read)
        self.another_target()
        node = self.cluster.nodes[self.target]
        number = self.id << 32 | self.next_number()
        least = self.cluster.confirmed[self.channel]

        def tell(index: int | None) -> None:
            if index is not None:
                self.cluster.counters["reads"] += 1
                self._check(node, index, least)

        self.cluster.network.client_frame(node.read_index, number, tell)

    def _check(self, node: SimNode, index: int, least: int) -> None:
        stats = node.group.machine.stats(self.channel)
        last_sequence = 0 if stats is None else stats.last_sequence
        if last_sequence < least:
            text = f"a read at index {index} says that {self.channel!r} ends at {last_sequence}, confirmed was {least}"
            self.cluster.raft.fail("I18", text, node.id)
