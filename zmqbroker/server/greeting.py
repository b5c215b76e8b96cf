"""How a node finds the others, and goes when they count it out.

It connects, and says HELLO until the cluster is formed, or has given it a place again. What a HELLO means is `formation`'s.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time

from zmqbroker.config import NodeConfig, majority_of, split_address
from zmqbroker.errors import DataDirectoryError, RemovedFromCluster
from zmqbroker.server.formation import Formation
from zmqbroker.server.links import LinkWatch
from zmqbroker.server.peers import PeerNetwork

__all__ = ["HELLO_INTERVAL_S", "Greeting", "removed"]

#: HELLOs are frequent until the cluster is formed, then once a second.
FORMING_INTERVAL_S, HELLO_INTERVAL_S = 0.1, 1.0
#: A removed node still votes for so many seconds, in case those who stay have not all stored that it has gone.
LINGER_S = 2.0
#: Seconds from one word on why a node does not take part to the next.
NOTICE_INTERVAL_S = 30.0
#: Seconds without all peers before the node says whom it waits for.
WAITING_NOTICE_S = 5

log = logging.getLogger("zmqbroker")


def removed(formation: Formation) -> RemovedFromCluster:
    """The error of a node that its cluster counts out."""
    return RemovedFromCluster(f"cluster {formation.cluster_uid.hex()} has removed {formation.name}; its data was left in place")


class Greeting:
    """Of one node, from its start to its end."""

    def __init__(self, config: NodeConfig, formation: Formation, network: PeerNetwork, watch: LinkWatch) -> None:
        self._config, self._formation, self._network, self._watch = config, formation, network, watch
        self._removed_s: float | None = None  # when this node heard that it was removed

    async def connect(self) -> None:
        """Connect to every node at its present numeric address; a name that does not resolve is tried again later."""
        loop, network = asyncio.get_running_loop(), self._network
        for peer in self._formation.known.everybody():
            host, port = split_address(peer.address) or ("", 0)
            try:
                found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            except OSError as error:
                log.debug("cannot resolve %s: %s", host, error)
                continue
            address = str(found[0][4][0])
            network.connect(peer, f"[{address}]:{port}" if ":" in address else f"{address}:{port}")
        network.drop_strangers()
        self._watch.follow(network.links)

    async def until_formed(self) -> None:
        """HELLO to everybody until the cluster is formed; form it when it is this node's turn."""
        started, noticed = time.monotonic(), False
        while not self._formation.formed:
            await self.connect()
            self._network.send_hello()
            if not self._formation.try_to_form(time.monotonic_ns()):
                await asyncio.sleep(FORMING_INTERVAL_S)
            missing = self._formation.missing(time.monotonic_ns())
            if missing and not noticed and time.monotonic() - started > WAITING_NOTICE_S:
                noticed = True
                log.info("waiting for %s to form the cluster", ", ".join(missing))

    async def until_rejoined(self) -> None:
        """HELLO to everybody until the cluster has given this node a place; its data is moved aside in that moment."""
        said_s = -NOTICE_INTERVAL_S
        while not self._formation.formed:
            if time.monotonic() - said_s >= NOTICE_INTERVAL_S:
                said_s = time.monotonic()
                log.error(
                    "recovering: %s; this node waits until a majority of the others works and takes it in again, and deletes "
                    "and moves nothing before",
                    self._formation.recovering,
                )
            self._network.send_hello()
            await asyncio.sleep(HELLO_INTERVAL_S)
            await self.connect()

    def check(self, voters: int) -> None:
        """See that this node belongs here, in a cluster of so many voters. Raises RemovedFromCluster, DataDirectoryError."""
        now_s = time.monotonic()
        if self._formation.removed and self._removed_s is None:
            self._removed_s = now_s
        if self._removed_s is not None and now_s - self._removed_s >= LINGER_S:
            raise removed(self._formation)
        if len(self._formation.foreign) >= majority_of(voters):
            names = ", ".join(sorted(self._formation.foreign))
            raise DataDirectoryError(
                f"{self._config.node.data_dir} belongs to cluster {self._formation.cluster_uid.hex()}, but {names} to another"
            )
