"""What the queues of one client share."""

from __future__ import annotations

import asyncio

from zmqbroker.client.consumer import Consuming
from zmqbroker.client.destinations import RoutedSends
from zmqbroker.client.handing import HandOvers
from zmqbroker.client.producer import Producer
from zmqbroker.wire.frames import U32_MAX

__all__ = ["Book"]

#: Calls under way at a time: their answers must fit the connection's pipe, and a node refuses more than 1000 (PROTOCOL §3).
CALLS_MAX = 900


class Book:
    """What is in use at one client: consumer numbers, who consumes, producers that are open."""

    def __init__(self) -> None:
        self.consumers: set[Consuming] = set()
        self.producers: set[Producer] = set()
        self.calls = asyncio.Semaphore(CALLS_MAX)  # commands and queries that may still be sent
        self.hand_overs, self.routed_sends = HandOvers(), RoutedSends()
        self._last_consumer = 0

    def next_consumer(self) -> int:
        """A number that no other consumer of the session has, but after four thousand million of them."""
        self._last_consumer = self._last_consumer % U32_MAX + 1
        return self._last_consumer
