"""The long line: every event is read by every durable consumer, in order and with no gap, whoever dies meanwhile.

Readers die with what they hold, come back under new sessions, and are replaced while they live; the machine is restored from
what it stored. A longer line: ZMQBROKER_EVENTS=COUNT. To replay a seed: pytest -k "line and SEED", ZMQBROKER_SEEDS=FIRST:LAST.
"""

from __future__ import annotations

import os
from dataclasses import replace
from random import Random

import pytest

from tests.unit.broker.builders import Node, publish, receive
from zmqbroker.broker import MachineLimits
from zmqbroker.commands import Ack, Close, Command, Delivery, Nack, OpenConsumer, Receipt, Run

STORE = "events_store:s"
EVENTS = int(os.environ.get("ZMQBROKER_EVENTS", "1500"))

first, last = (int(bound) for bound in os.environ.get("ZMQBROKER_SEEDS", "0:4").split(":"))


class Reader:
    """Whoever reads from one consumer: one at a time, of all that ever did."""

    def __init__(self, chance: Random, consumer: str, *, exclusive: bool) -> None:
        self.chance, self.consumer, self.exclusive = chance, consumer, exclusive
        self.channel = f"{STORE}>{consumer}"
        self.session, self.requests = chance.randbytes(16), 0
        self.held: list[Receipt] = []  # of this session, in the order of delivery
        self.acked: list[int] = []  # by all sessions, in the order of acks
        self.is_waiting = False
        self.dying: list[bytes] = []  # sessions that are gone, and nobody knows

    def open(self) -> Command:
        return OpenConsumer(STORE, self.consumer, "first", exclusive=self.exclusive, session=self.session)

    def next(self) -> list[Command]:
        """What it does now: receive, ack the oldest of what it has, give some back, or die."""
        chance = self.chance
        if chance.random() < 0.04:
            return self.replaced()
        if self.dying and chance.random() < 0.1:
            return self.ended()
        if not self.is_waiting and chance.random() < 0.6:
            self.requests, self.is_waiting = self.requests + 1, True
            wait_ms = chance.choice([0, 50])
            visibility_ms = 10**9 if self.exclusive else chance.choice([300, 10**9])
            size = chance.randint(1, 9)
            return [
                receive(
                    size,
                    session=self.session,
                    channel=self.channel,
                    request=self.requests,
                    wait_ms=wait_ms,
                    visibility_ms=visibility_ms,
                )
            ]
        if not self.held:
            return []
        receipt = self.held.pop(0)
        cut = chance.randint(receipt.first, receipt.last)
        if cut < receipt.last:
            self.held.insert(0, replace(receipt, first=cut + 1))
        if not self.exclusive and chance.random() < 0.1:
            return [Nack(self.session, self.channel, (replace(receipt, last=cut),))]
        return [Ack(self.session, self.channel, (replace(receipt, last=cut),))]

    def replaced(self) -> list[Command]:
        """By another session; the one before dies and is closed first, or later, or is pushed aside."""
        old, self.session = self.session, self.chance.randbytes(16)
        self.held, self.is_waiting = [], False
        self.dying.append(old)
        return [*self.ended(), self.open()] if not self.exclusive or self.chance.random() < 0.5 else [self.open()]

    def ended(self) -> list[Command]:
        """Those before it are found to be gone."""
        closed: list[Command] = [Close(session) for session in self.dying]
        self.dying.clear()
        return closed

    def got(self, delivery: Delivery) -> None:
        if delivery.key.session == self.session:
            self.is_waiting = False
            self.held += [piece.receipt for piece in delivery.pieces]

    def did(self, command: Ack, count: object) -> None:
        """An ack was answered."""
        (receipt,) = command.receipts
        if count == receipt.last - receipt.first + 1:
            self.acked += range(receipt.first, receipt.last + 1)


def events(chance: Random) -> Command:
    count = chance.randint(1, 5)
    runs = (Run(count, group=chance.choice("abc")),) if chance.random() < 0.5 else ()
    return publish(count, channel=STORE, runs=runs)


@pytest.mark.parametrize("seed", range(first, last))
def test_line_of_events_is_read_by_every_consumer_in_order_and_with_no_gap(seed: int) -> None:
    chance = Random(seed)
    node = Node(MachineLimits(taken_ready=chance.choice([3, 1024]), taken_records=4, parked_max=chance.choice([2, 50])))
    readers = [Reader(chance, name, exclusive=name != "all") for name in ("one", "two", "all")]
    node.entry(*(reader.open() for reader in readers))
    published = 0
    for _ in range(20 * EVENTS):
        commands: list[Command] = [events(chance)] if published < EVENTS and chance.random() < 0.4 else []
        whose: list[Reader | None] = [None] * len(commands)
        for reader in readers:
            following = reader.next()
            commands += following
            whose += [reader] * len(following)
        applied = node.entry(*commands, after_ms=chance.choice([0, 1, 20]))
        for command, result, acker in zip(commands, applied.results, whose, strict=True):
            if isinstance(command, Ack):
                assert acker is not None
                acker.did(command, getattr(result, "count", 0))
        for delivery in applied.deliveries:
            for reader in readers:
                if delivery.channel == reader.channel:
                    reader.got(delivery)
                    check_goes_on(reader, delivery)
        published = node.stats(STORE).last_sequence
        if chance.random() < 0.02:
            node.restart()
        if published >= EVENTS and all(len(set(reader.acked)) == published for reader in readers):
            break
    for reader in readers[:2]:
        assert reader.acked == list(range(1, published + 1))
    assert set(readers[2].acked) == set(range(1, published + 1))
    assert [node.stats(reader.channel).missed for reader in readers] == [0, 0, 0]
    assert [node.stats(reader.channel).position for reader in readers] == [published + 1] * 3


def check_goes_on(reader: Reader, delivery: Delivery) -> None:
    """What an exclusive reader gets follows what it has; and nobody gets what was acked, as far as it was answered."""
    sequences = [number for piece in delivery.pieces for number in range(piece.receipt.first, piece.receipt.last + 1)]
    assert not set(sequences) & set(reader.acked[-500:])
    if reader.exclusive and delivery.key.session == reader.session and sequences:
        held = [number for receipt in reader.held for number in range(receipt.first, receipt.last + 1)]
        assert held == list(range(len(reader.acked) + 1, held[-1] + 1))
