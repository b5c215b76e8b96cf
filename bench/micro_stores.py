"""What an event costs the state machine, by how many consumers of its store there are and whether somebody waits at them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from bench.micro_cases import Case, Step, Taken
from zmqbroker.broker import Machine
from zmqbroker.commands import Ack, BatchHeader, Command, OpenConsumer, Publish, Receive, ReceiveKey

__all__ = ["CASES"]

_STEP_COUNT = 100
_SESSION = bytes(16)


@contextmanager
def publish_to(channel: str, consumers: int, *, waiting: bool) -> Iterator[Step]:
    """One entry with one event: its apply, with the deliveries to those who wait. That they ack and wait again is outside."""
    machine = Machine()
    index = 0

    def apply(*commands: Command) -> list[Command]:
        """An entry; what those who got something do next."""
        nonlocal index
        index += 1
        found: list[Command] = []
        for delivery in machine.apply(index, index, commands).deliveries:
            found.append(Ack(_SESSION, delivery.channel, tuple(piece.receipt for piece in delivery.pieces)))
            found.append(receive(delivery.channel, index))
        return found

    def receive(name: str, request: int) -> Receive:
        return Receive(ReceiveKey(_SESSION, 0, request), name, wait_ms=3_600_000)

    event = Publish(BatchHeader(channel, 0, 0, 1, 128, 128, 0), 16, 176)
    opened = [OpenConsumer(channel, str(number), session=_SESSION) for number in range(consumers)]
    apply(event, *opened, *(receive(consumer.channel, 1) for consumer in opened if waiting))

    def step() -> Taken:
        took_ns = 0
        for _ in range(_STEP_COUNT):
            started_ns = time.perf_counter_ns()
            following = apply(event)
            took_ns += time.perf_counter_ns() - started_ns
            if following:
                apply(*following)
        return Taken(_STEP_COUNT, took_ns)

    yield step


#: Name -> case; a name holds its parameters.
CASES: dict[str, Case] = {
    "machine-publish-to-queue": lambda _: publish_to("orders", 0, waiting=False),
    "machine-publish-to-store-0-consumers": lambda _: publish_to("events_store:orders", 0, waiting=False),
    "machine-publish-to-store-10-idle": lambda _: publish_to("events_store:orders", 10, waiting=False),
    "machine-publish-to-store-10-waiting": lambda _: publish_to("events_store:orders", 10, waiting=True),
}
