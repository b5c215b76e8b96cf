"""The machine, a twin that is never restored, and the slow model, driven together and compared after every entry."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.unit.broker.builders import ALICE, BOB, MILLISECOND, START, describe
from tests.unit.broker.model import Model
from tests.unit.broker.model_state import Answer, Given
from zmqbroker.broker import Machine, MachineLimits
from zmqbroker.broker.schedules import Schedule
from zmqbroker.commands import Command, Delivery, HandedOver, HandOver, Publish, Receipt

__all__ = ["CHANNELS", "Held", "Trio"]

CHANNELS = ["a", "b", "dead", "more"]

#: Messages that a session was given: session, channel, receipt.
Held = tuple[bytes, str, Receipt]


def spread(delivery: Delivery) -> Answer:
    """A delivery as the model tells it: message by message."""
    return Answer(
        delivery.key,
        delivery.channel,
        tuple(
            Given(
                assigning=piece.receipt.assigning,
                sequence=piece.receipt.first + step,
                delivery_count=piece.delivery_count,
                time=piece.time_unix_ns,
                entry=piece.index,
                position=piece.position,
                size=piece.size,
                place=piece.low + step,
                origin=replace(piece.origin, sequence=piece.origin.sequence + step) if piece.origin else None,
            )
            for piece in delivery.pieces
            for step in range(piece.receipt.last - piece.receipt.first + 1)
        ),
    )


def schedule_row(schedule: Schedule) -> tuple[Any, ...]:
    """A schedule as the model tells it."""
    instant = 0 if schedule.ended else schedule.instant_unix_ns
    return (schedule.name, schedule.plan, schedule.number, schedule.stored, schedule.skipped, instant)


class Trio:
    """One machine three times; `machine` is replaced by what its changes restore now and then."""

    names = CHANNELS

    def __init__(self, limits: MachineLimits, model: Model | None = None) -> None:
        self.limits = limits
        self.machine, self.twin, self.model = Machine(limits), Machine(limits), model or Model(limits)
        self.stored: dict[bytes, bytes] = {}
        self.index, self.now = 0, START
        self.seen: list[Delivery] = []
        self.done: list[HandOver] = []  # of late
        self.assigned: set[tuple[int, str, int, int]] = set()

    def apply(self, commands: list[Command], skipped: int = 0, step_ms: int = 0) -> None:
        """The next entry, to all three; compares all that they say of it."""
        self.index += 1 + skipped
        self.now += step_ms * MILLISECOND
        applied = self.machine.apply(self.index, self.now, commands)
        assert self.twin.apply(self.index, self.now, commands).deliveries == applied.deliveries
        results, answers = self.model.apply(self.index, self.now, commands)
        assert [describe(result) for result in applied.results] == [describe(result) for result in results]
        assert [spread(delivery) for delivery in applied.deliveries] == answers
        self.seen = (self.seen + [delivery for delivery in applied.deliveries if delivery.pieces])[-6:]
        self.check_receipts(answers)
        told = zip(commands, applied.results, strict=True)
        self.done += [one for one, result in told if isinstance(one, HandOver) and isinstance(result, HandedOver)]
        del self.done[:-4]

    def held(self) -> list[Held]:
        """What was given out of late; some of it is not held any more."""
        return [(delivery.key.session, delivery.channel, piece.receipt) for delivery in self.seen for piece in delivery.pieces]

    def in_hand(self) -> list[Held]:
        """Every message that is held now."""
        return [
            (hold.key.session, channel.name, Receipt(hold.assigning, message.sequence, message.sequence))
            for channel, hold in self.model.holds()
            if hold.assigning is not None
            for message in channel.held(hold)
        ]

    def next_of(self, batch: Publish) -> Publish:
        """The batch with the number that its producer has reached; without a producer where that is not open."""
        header = batch.header
        there = self.model.channels.get(header.channel)
        known = there.producers.get(header.producer) if there else None
        numbered = replace(header, base_sequence=known.last + 1) if known else replace(header, producer=0, base_sequence=0)
        return replace(batch, header=numbered)

    def check_receipts(self, answers: list[Answer]) -> None:
        """No message is assigned twice under one number: only a repeat, with the same delivery count, may look so."""
        for answer in answers:
            for given in answer.messages:
                name = (given.assigning, answer.channel, given.sequence)
                assert not any((*name, count) in self.assigned for count in range(1, given.delivery_count))
                self.assigned.add((*name, given.delivery_count))

    def flush(self) -> None:
        """Bring the stored keys up to date."""
        for key, value in self.machine.changes():
            if value is None:
                del self.stored[key]  # fails for a key that was never stored
            else:
                self.stored[key] = value
        assert sorted(self.stored.items()) == self.machine.items()

    def restart(self) -> None:
        """Go on with what the store holds."""
        self.flush()
        self.machine = Machine.restore(self.index, sorted(self.stored.items()), self.limits)

    def check(self) -> None:
        """All that can be asked has the model's answer, and the replicas are equal to the byte."""
        self.check_answers()
        self.check_due()
        self.check_counts()
        assert self.machine.items() == self.twin.items()
        assert self.machine.digest() == self.twin.digest()

    def check_answers(self) -> None:
        """What the node may ask."""
        machine, model = self.machine, self.model
        assert [machine.stats(name) for name in self.names] == [model.stats(name) for name in self.names]
        assert machine.channels() == sorted(model.channels)
        assert machine.lowest_live_index() == model.lowest_live_index()
        holds = [hold for _, hold in model.holds()]
        sessions = {hold.key.session for hold in holds} | {c.turn.session for c in model.channels.values() if c.turn}
        assert set(machine.sessions()) == sessions
        for session in (ALICE, BOB):
            assert machine.holds(session) == (session in sessions)
            assert machine.waits(session) == any(h.key.session == session and h.assigning is None for h in holds)
        assert [schedule_row(schedule) for schedule in machine.schedules()] == [
            model.schedules[name].row() for name in sorted(model.schedules)
        ]
        assert list(machine.defaults()) == sorted(model.patterns.items())
        assert list(machine.routes) == sorted(model.routes.items())
        told = [(binding.source, binding.queues, binding.left_out) for binding in machine.bindings]
        assert told == model.bindings_told()
        assert (machine.now_unix_ns, machine.trimmed_index) == (model.now, model.trimmed)

    def check_due(self) -> None:
        """A machine may wake for messages that are gone, and never too late."""
        due = self.model.next_due()
        for machine in (self.machine, self.twin):
            told = machine.next_due_unix_ns()
            assert due is None or (told is not None and told <= due)

    def check_counts(self) -> None:
        """What was ever stored is still there, or counted once as something else."""
        for stats in (self.machine.stats(name) for name in self.machine.channels()):
            assert stats is not None
            gone = stats.acked + stats.expired + stats.dropped + stats.dead_lettered + stats.moved + stats.deduplicated
            assert stats.last_sequence == gone + stats.depth
            assert stats.depth == stats.ready + stats.in_flight + stats.delayed + stats.parked
            assert stats.sent <= stats.last_sequence
            assert stats.redelivered <= stats.delivered
