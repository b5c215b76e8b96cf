"""Smart routing among the load: a queue that is bound to the events store, and messages that are sent to two channels at once.

One producer sends to the store alone, and one to the store and the queue `ROUTED`, all or none. What the store takes must be
in the queue `BOUND` once, in the same order: so whoever reads anywhere reads the same. Producers of the store begin when the
binding is confirmed. The ledger of messages knows a message of a bound queue by where its body lies in the log, as any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tests.simulation.client import Client
from tests.simulation.desk import Answer
from tests.simulation.line import STORE
from zmqbroker.commands import SetBinding
from zmqbroker.wire.frames import Reply

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster
    from tests.simulation.producers import Producer

__all__ = ["BOUND", "ROUTED", "Binder"]

ROUTED, BOUND = "routed", "bound"


class Binder(Client):
    """The operator who binds the queue when a run begins."""

    def __init__(self, cluster: Cluster, id: int, producers: Sequence[Producer]) -> None:
        super().__init__(cluster, id)
        self._producers = producers
        for producer in producers:
            producer.held = True
        self.begin(SetBinding(STORE, BOUND), self._bound)

    def _bound(self, answer: Answer) -> None:
        assert self.confirmed(Reply.CHANGED, answer), answer
        for producer in self._producers:
            producer.held = False
