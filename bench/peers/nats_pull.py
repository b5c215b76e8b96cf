"""Pulling and acking with JetStream at its best, alone or while something is published.

An ack is sent and not confirmed, as is usual there, so the last ones need not have been stored when the clock stops; ours are.
"""

from __future__ import annotations

import json
import re

from bench.load import BenchError, Figures
from bench.meter import Meter
from bench.peers.nats_load import Sender
from bench.peers.nats_server import STREAM
from bench.peers.nats_wire import NatsConnection, publication
from bench.peers.raw import exchange_all

__all__ = ["DELIVERIES", "Puller", "publish_and_pull", "pull_all"]

DELIVERIES = b"_i.d"
#: Of one request for messages; the next one is sent when so many are still to come.
PULL_COUNT = 500
_PULL_EXPIRES_NS = 20_000_000_000


class Puller:
    """Keeps requests for messages under way and acks each message that comes."""

    def __init__(self, connection: NatsConnection, consumer: str, body_bytes: int) -> None:
        self._connection = connection
        request = json.dumps({"batch": PULL_COUNT, "expires": _PULL_EXPIRES_NS}).encode()
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.{consumer}".encode()
        self._request = publication(subject, DELIVERIES, request)
        # MSG <subject> <subscription> $JS.ACK.….<stream sequence>.<consumer sequence>.<time>.<pending> <size>
        self._message = re.compile(rb"MSG \S+ \d+ (\S+\.(\d+)\.\d+\.\d+\.\d+) %d\r\n[\s\S]{%d}\r\n" % (body_bytes, body_bytes))
        self._rest = b""
        self._wanted = self._received = 0

    def ask(self) -> None:
        """Ask for more messages when too few are still to come."""
        while self._wanted - self._received <= PULL_COUNT:
            self._connection.write(self._request)
            self._wanted += PULL_COUNT

    def take(self, data: bytes) -> list[int]:
        """The sequences of the messages that have come; their acks are queued."""
        data = self._rest + data
        sequences, acks, end = [], [], 0
        for message in self._message.finditer(data):
            sequences.append(int(message[2]))
            acks.append(b"PUB %b 4\r\n+ACK\r\n" % message[1])
            end = message.end()
        self._rest = data[end:]
        self._received += len(sequences)
        self._connection.write(b"".join(acks))
        self.ask()
        return sequences


def pull_all(port: int, meter: Meter, consumer: str, body_bytes: int, count: int) -> Figures:
    """Pull and ack `count` messages that the stream holds; every one must come once, in order."""
    connection = NatsConnection(port, [DELIVERIES])
    puller = Puller(connection, consumer, body_bytes)
    sequences: list[int] = []
    meter.start()
    puller.ask()
    while len(sequences) < count:
        sequences += puller.take(connection.exchange())
    while connection.writing:
        connection.exchange()
    spent = meter.stop()
    connection.close()
    _check_sequences(sequences, count)
    return Figures(count, count * body_bytes, spent)


def publish_and_pull(sender: Sender, meter: Meter, consumer: str, body_bytes: int, counts: tuple[int, int]) -> Figures:
    """As `publish`, to a stream whose consumer pulls and acks meanwhile; the clock stops when it has everything too."""
    handler = NatsConnection(sender.connection.port, [DELIVERIES])
    puller = Puller(handler, consumer, body_bytes)
    sequences: list[int] = []
    puller.ask()

    def run(count: int, total: int) -> None:
        sender.begin(count)
        while not sender.done or len(sequences) < total or handler.writing:
            sender.fill()
            confirms, messages = exchange_all([sender.connection, handler])
            sender.take(confirms)
            if messages:
                sequences.extend(puller.take(messages))

    run(counts[0], counts[0])
    meter.start()
    run(counts[1], sum(counts))
    spent = meter.stop()
    for connection in (sender.connection, handler):
        connection.close()
    _check_sequences(sequences, sum(counts))
    return Figures(counts[1], counts[1] * body_bytes, spent)


def _check_sequences(sequences: list[int], count: int) -> None:
    if sequences != list(range(1, count + 1)):
        raise BenchError("NATS delivered a message twice, or not at all")
