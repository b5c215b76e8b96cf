"""A client in the test's own process that notes what it sees: for tests that look at single sends."""

from __future__ import annotations

import time

from tests.fault.history import Ack, Delivery, History, Outcome, Send, body_of, value_of
from zmqbroker import SendResult, SyncClient
from zmqbroker.client import SyncConfirm
from zmqbroker.errors import RequestError

__all__ = ["Witness"]

#: Messages taken from the queue at a time.
_RECEIVE_MAX = 1000


class Witness:
    """One producer, and one consumer that empties the queue at the end."""

    def __init__(self, client: SyncClient, channel: str, name: str) -> None:
        self.history = History()
        self._queue = client.queue(channel)
        self._producer = self._queue.producer(linger_ms=0)
        self._name = name
        self._number = 0

    def start(self, timeout_ms: int) -> SyncConfirm:
        """Begin to send the next message."""
        self._number += 1
        number, invoke_ns = self._number, time.monotonic_ns()
        confirm = self._producer.send(body_of((self._name, number)), timeout_ms=timeout_ms)
        confirm.add_done_callback(lambda done: self._ended(number, invoke_ns, done))
        return confirm

    def send(self, count: int, timeout_ms: int = 60_000) -> list[SendResult]:
        """Send messages and wait for all confirms."""
        return [confirm.result() for confirm in [self.start(timeout_ms) for _ in range(count)]]

    def _ended(self, number: int, invoke_ns: int, confirm: SyncConfirm) -> None:
        complete_ns, error = time.monotonic_ns(), confirm.exception()
        if error is None:
            send = Send(self._name, number, Outcome.CONFIRMED, invoke_ns, complete_ns, confirm.result().sequence)
        else:
            known = isinstance(error, RequestError) and not error.outcome_unknown
            send = Send(self._name, number, Outcome.REFUSED if known else Outcome.UNKNOWN, invoke_ns, complete_ns)
        self.history.sends.append(send)

    def empty(self) -> int:
        """Receive and ack until nothing is left; the last sequence that the queue ever stored."""
        while messages := self._queue.receive(_RECEIVE_MAX, wait_ms=200, visibility_ms=600_000, max_bytes=16 << 20):
            now_ns = time.monotonic_ns()
            for message in messages:
                delivery = Delivery(message.sequence, *value_of(message.body), message.delivery_count, now_ns)
                self.history.deliveries.append(delivery)
            self._queue.ack(messages)
            acked_ns = time.monotonic_ns()
            self.history.acks += [Ack(message.sequence, message.delivery_count, now_ns, acked_ns) for message in messages]
        stats = self._queue.stats()
        assert stats["depth"] == 0, stats
        return int(stats["last_sequence"])
