"""The operator who gives channels their rules when a run begins; a channel that a client used before gets them by an update."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.simulation.client import Client
from tests.simulation.desk import Answer
from zmqbroker.commands import ChannelSettings, CreateChannel, UpdateChannel
from zmqbroker.errors import ChannelExists

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster

__all__ = ["Admin"]


class Admin(Client):
    """Creates the channels that have rules."""

    final = (ChannelExists,)

    def __init__(self, cluster: Cluster, id: int) -> None:
        super().__init__(cluster, id)
        for channel, rules in cluster.rules.items():
            self.begin(CreateChannel(channel, rules.settings), self._created(channel, rules.settings))

    def _created(self, channel: str, settings: ChannelSettings) -> Callable[[Answer], None]:
        def finished(answer: Answer) -> None:
            if isinstance(answer.error, ChannelExists):
                self.begin(UpdateChannel(channel, settings), lambda answer: None)

        return finished
