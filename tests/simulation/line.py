"""An events store among the load: who reads it, and what must be true of every entry (I16, I17, I25).

Three durable consumers read one store that nothing bounds: two are exclusive, each with a reader that dies and comes back as
another session, and one is shared by two. The ledger knows an event by where its body lies in the log; of every consumer it
keeps which sequences are acked, and how far it ever came: no event is passed over, and none comes again after its ack.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tests.fault.history import History
from tests.simulation.consumers import Consumer
from tests.simulation.desk import Answer, Request
from tests.simulation.tracked import Body, sends_of
from tests.simulation.world import MILLISECOND
from zmqbroker.broker import Applied, Machine
from zmqbroker.commands import (
    Ack,
    Acked,
    Close,
    Command,
    Delivery,
    OpenConsumer,
    Publish,
    Published,
    Receipt,
    Receive,
    Result,
    Tick,
    consumer_of,
)
from zmqbroker.errors import ChannelNotFound, ConsumerTaken, StaleReceipt
from zmqbroker.wire.frames import Reply

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster

__all__ = ["CONSUMERS", "STORE", "Line", "StoreReader", "histories"]

STORE = "events_store:s"
#: By name: how many read from it; one alone is exclusive.
CONSUMERS = {"one": 1, "two": 1, "all": 2}


#: Share of the answers after which a reader dies with what it has, and comes back as another session.
_DYING = 0.02


class Line:
    """What is true of the store and its consumers. `fail` is told an invariant, what is wrong, and a node; it raises."""

    def __init__(self, fail: Callable[[str, str, int], object]) -> None:
        self._fail = fail
        self.bodies: dict[int, Body] = {}  # by sequence
        self.acked: dict[str, set[int]] = {consumer_of(STORE, name): set() for name in CONSUMERS}
        self.reached: dict[str, int] = dict.fromkeys(self.acked, 0)  # the highest sequence that ever was delivered
        self._sessions: set[bytes] = set()  # of readers

    def applied(self, node: int, machine: Machine, commands: Sequence[Command], applied: Applied) -> None:
        """An entry was applied for the first time. A receive that is repeated before an ack of the same entry is no fault."""
        told = list(zip(commands, applied.results, strict=True))
        for command, result in told:
            for batch, stored in sends_of(command, result):
                self._published(machine.applied_index, batch, stored)
        for delivery in applied.deliveries:
            if delivery.channel in self.acked:
                self._delivered(node, delivery)
        for command, result in told:
            if isinstance(command, Ack) and command.channel in self.acked and isinstance(result, Acked | StaleReceipt):
                self._acked(command, result)

    def rest(self, commands: Sequence[Command], applied: Applied) -> tuple[list[Command], Applied]:
        """The entry without what is of consumers: it is for the ledger of all queues, bound ones too."""
        kept: list[Command] = []
        results: list[Result] = []
        for command, result in zip(commands, applied.results, strict=True):
            mine = self._is_mine(command)
            kept.append(Tick() if mine else command)
            results.append(None if mine else result)
        return kept, Applied(results, [delivery for delivery in applied.deliveries if delivery.channel not in self.acked])

    def audit(self, node: int, machine: Machine) -> None:
        """What a consumer has passed is acked."""
        for name, acked in self.acked.items():
            stats = machine.stats(name)
            if stats is not None and (gap := [n for n in range(1, stats.position) if n not in acked]):
                self._fail("I16", f"consumer {name!r} is at {stats.position}, and nobody acked {gap[:5]}", node)
            if stats is not None and stats.missed:
                self._fail("I16", f"consumer {name!r} says that it missed {stats.missed}", node)

    @property
    def is_read(self) -> bool:
        """Whether every consumer has acked every event."""
        return all(len(acked) == len(self.bodies) for acked in self.acked.values())

    def _is_mine(self, command: Command) -> bool:
        if isinstance(command, Receive) and command.channel in self.acked:
            self._sessions.add(command.key.session)
            return True
        if isinstance(command, Close):
            return command.session in self._sessions
        return isinstance(command, OpenConsumer) or (isinstance(command, Ack) and command.channel in self.acked)

    def _published(self, index: int, command: Publish, result: Result) -> None:
        if command.header.channel == STORE and isinstance(result, Published) and not result.duplicate:
            for place in range(result.count):
                self.bodies[result.first_sequence + place] = index, command.position, place

    def _acked(self, command: Ack, result: Acked | StaleReceipt) -> None:
        stale = {Receipt(*one) for one in result.fields["stale"]} if isinstance(result, StaleReceipt) else set()
        for receipt in command.receipts:
            if receipt not in stale:
                self.acked[command.channel].update(range(receipt.first, receipt.last + 1))

    def _delivered(self, node: int, delivery: Delivery) -> None:
        name, before = delivery.channel, 0
        for piece in delivery.pieces:
            for step in range(piece.receipt.last - piece.receipt.first + 1):
                sequence, body = piece.receipt.first + step, (piece.index, piece.position, piece.low + step)
                if self.bodies.get(sequence) != body:
                    self._fail("I16", f"{name!r} gets {body} as {sequence}, it is {self.bodies.get(sequence)}", node)
                if sequence <= before or sequence > self.reached[name] + 1:
                    self._fail("I25", f"{name!r} gets {sequence} after {before}, it came to {self.reached[name]}", node)
                if sequence in self.acked[name]:
                    self._fail("I17", f"{name!r} gets {sequence}, which is acked", node)
                before, self.reached[name] = sequence, max(sequence, self.reached[name])


class StoreReader(Consumer):
    """Whoever reads from one consumer; it opens it when it is told that it must."""

    final = (*Consumer.final, ChannelNotFound, ConsumerTaken)

    def __init__(self, cluster: Cluster, id: int, consumer: str) -> None:
        super().__init__(cluster, id, consumer_of(STORE, consumer))
        self._opening = OpenConsumer(STORE, consumer, "first", exclusive=CONSUMERS[consumer] == 1)

    def _received(self, answer: Answer) -> None:
        if isinstance(answer.error, ChannelNotFound | ConsumerTaken):
            self._open()
            self.world.after(20 * MILLISECOND, self._receive, self.generation)
            return
        super()._received(answer)
        if not self.careful and self.chance.happens(_DYING):
            self.crash()

    def _open(self) -> None:
        """Nobody waits for the answer: the next receive finds out."""
        opening = OpenConsumer(STORE, self._opening.consumer, "first", exclusive=self._opening.exclusive, session=self.session)
        self.cluster.request(self.target, Request(self.id, self.next_number(), self.session, opening))

    def promised(self, answer: Answer) -> None:
        """A confirm leaves a node: in the committed log the events are acked (I19)."""
        receipts = self._receipts.get(answer.number, ())
        if answer.code is not Reply.ACKED:
            return
        for receipt in receipts:
            for sequence in range(receipt.first, receipt.last + 1):
                if sequence not in self.cluster.machines.line.acked[self.channel]:
                    self.cluster.raft.fail("I19", f"{answer} leaves, and {sequence} is not acked", answer.node)


def histories() -> dict[str, History]:
    """One for what is sent to the store, and one of each consumer."""
    return {STORE: History(), **{consumer_of(STORE, name): History() for name in CONSUMERS}}
