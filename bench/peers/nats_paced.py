"""Send to handler over JetStream: the highest rate that it keeps up with, and an open loop at a given one."""

from __future__ import annotations

import time

from bench.load import BODIES
from bench.paced import Paced, run_paced
from bench.peers.nats_load import INBOX, Acks
from bench.peers.nats_pull import DELIVERIES, Puller
from bench.peers.nats_server import SUBJECT
from bench.peers.nats_wire import NatsConnection, publication
from bench.peers.sending import bodies_of

__all__ = ["open_loop", "saturated_rate"]


class NatsLane:
    """A connection that publishes with confirms, and one that pulls and acks."""

    def __init__(self, port: int, consumer: str, body_bytes: int) -> None:
        self._publisher, self._handler = NatsConnection(port, [INBOX]), NatsConnection(port, [DELIVERIES])
        self._acks, self._puller = Acks(), Puller(self._handler, consumer, body_bytes)
        self._frames = [publication(SUBJECT, INBOX, body) for body in bodies_of(body_bytes)]
        self._sent = self._confirmed = 0
        self._puller.ask()
        self._handler.flush()

    def descriptors(self) -> tuple[int, int]:
        """Both connections."""
        return self._publisher.fileno(), self._handler.fileno()

    def ready(self) -> bool:
        """Nothing: descriptors of plain sockets tell what is there."""
        return False

    def send(self, count: int) -> None:
        """Publish messages in one write."""
        self._publisher.write(b"".join(self._frames[number % BODIES] for number in range(self._sent, self._sent + count)))
        self._publisher.flush()
        self._sent += count

    def take(self) -> list[tuple[int, int]]:
        """What has arrived."""
        self._publisher.flush()
        if data := self._publisher.read():
            self._confirmed += self._acks.take(data)
        data = self._handler.read()
        ranges = [(sequence - 1, sequence - 1) for sequence in self._puller.take(data)] if data else []
        self._handler.flush()
        return ranges

    def unsettled(self) -> int:
        """Messages without a confirm."""
        return self._sent - self._confirmed

    def close(self) -> None:
        """Close both connections."""
        self._publisher.close()
        self._handler.close()


def open_loop(port: int, consumer: str, body_bytes: int, rate: int, counts: tuple[int, int]) -> Paced:
    """Latencies at `rate` messages a second, of an empty stream with that consumer."""
    lane = NatsLane(port, consumer, body_bytes)
    try:
        return run_paced(lane, rate, counts[1], counts[0])
    finally:
        lane.close()


def saturated_rate(port: int, consumer: str, body_bytes: int, count: int, window: int) -> float:
    """Messages a second from publisher to handler when at most `window` are not handled yet."""
    lane = NatsLane(port, consumer, body_bytes)
    try:
        started_s, handled, sent = time.perf_counter(), 0, 0
        while handled < count:
            room = min(count - sent, window - (sent - handled))
            if room:
                lane.send(room)
                sent += room
            handled += len(lane.take())
        return count / (time.perf_counter() - started_s)
    finally:
        lane.close()
