"""The machine against the slow model, a twin and its own stored changes, after every entry."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from tests.unit.broker.builders import ALICE, BOB, MILLISECOND, START, TINY, describe, publish, receive
from tests.unit.broker.model import Model
from zmqbroker.broker import Machine
from zmqbroker.commands import Ack, Close, Command, Delivery, OpenProducer, Receipt, Tick, Trim

LIMITS = replace(TINY, channels_max=2)

CHANNELS = ["a", "b", "c"]

channels = st.sampled_from(["a", "a", "a", "b", "c"])
sessions = st.sampled_from([ALICE, BOB])
consumers = st.integers(0, 1)
incarnations = st.sampled_from([0, 0, 0, 0, 1])

publishes = st.builds(
    publish,
    st.integers(1, 4),
    channel=channels,
    producer=st.sampled_from([0, 0, 1, 2, 3]),
    base=st.integers(0, 7),
    body_size=st.integers(0, 3),
    body_bytes=st.one_of(st.none(), st.integers(0, 3)),
    position=st.integers(16, 20),
    size=st.integers(1, 9),
    incarnation=incarnations,
)
receives = st.builds(
    receive,
    st.integers(1, 6),
    session=sessions,
    request=st.integers(1, 3),
    consumer=consumers,
    channel=channels,
    count_min=st.integers(1, 4),
    size_max=st.sampled_from([1, 3, 5, 1000]),
    wait_ms=st.sampled_from([0, 2, 3]),
    visibility_ms=st.sampled_from([0, 1, 2, 5]),
    incarnation=incarnations,
)
others: st.SearchStrategy[Command] = st.one_of(
    st.builds(OpenProducer, channels, st.integers(1, 3), incarnations),
    st.builds(Close, sessions, st.one_of(st.none(), consumers)),
    st.just(Tick()),
    st.builds(Trim, st.integers(0, 50)),
)


class MachineAgainstModel(RuleBasedStateMachine):
    """Random entries; `machine` is replaced by what its changes restore now and then, `twin` never."""

    def __init__(self) -> None:
        super().__init__()
        self.machine, self.twin, self.model = Machine(LIMITS), Machine(LIMITS), Model(LIMITS)
        self.stored: dict[bytes, bytes] = {}
        self.index, self.now = 0, START
        self.seen: list[Delivery] = []
        self.assigned: set[tuple[int, int, str, int]] = set()

    @rule(data=st.data(), step_ms=st.sampled_from([0, 0, 1, 1, 2, 10, -5]))
    def entry(self, data: st.DataObject, step_ms: int) -> None:
        """Apply one entry to all three and compare all they say."""
        commands = data.draw(st.lists(self.commands(), max_size=4))
        self.index += data.draw(st.integers(1, 2))
        self.now += step_ms * MILLISECOND
        applied = self.machine.apply(self.index, self.now, commands)
        assert self.twin.apply(self.index, self.now, commands).deliveries == applied.deliveries
        results, deliveries = self.model.apply(self.index, self.now, commands)
        assert [describe(result) for result in applied.results] == [describe(result) for result in results]
        assert applied.deliveries == deliveries
        self.seen = (self.seen + deliveries)[-6:]
        self.check_receipts(deliveries)

    def commands(self) -> st.SearchStrategy[Command]:
        """Commands that fit what has happened, half of the acks by receipts that were given out."""
        receipts = [piece.receipt for delivery in self.seen for piece in delivery.pieces]
        known = st.sampled_from(receipts) if receipts else st.just(Receipt(1, 1, 1))
        parts = st.builds(
            lambda receipt, low, high: Receipt(receipt.assigning, receipt.first + low, receipt.last - high),
            known,
            st.integers(-1, 2),
            st.integers(-1, 2),
        )
        acks = st.builds(Ack, sessions, channels, st.lists(st.one_of(known, parts), min_size=1, max_size=3).map(tuple))
        return st.one_of(publishes, receives, receives, acks, others)

    def check_receipts(self, deliveries: list[Delivery]) -> None:
        """No message is assigned twice under one number: only a repeat, with the same delivery count, may look so."""
        for delivery in deliveries:
            for piece in delivery.pieces:
                for sequence in range(piece.receipt.first, piece.receipt.last + 1):
                    name = (piece.receipt.assigning, sequence, delivery.channel)
                    assert not any((*name, count) in self.assigned for count in range(1, piece.delivery_count))
                    self.assigned.add((*name, piece.delivery_count))

    @rule()
    def flush(self) -> None:
        """Bring the stored keys up to date."""
        for key, value in self.machine.changes():
            if value is None:
                del self.stored[key]  # fails for a key that was never stored
            else:
                self.stored[key] = value
        assert sorted(self.stored.items()) == self.machine.items()

    @rule()
    def restart(self) -> None:
        """Go on with what the store holds."""
        self.flush()
        self.machine = Machine.restore(self.index, sorted(self.stored.items()), LIMITS)

    @invariant()
    def machine_and_model_agree(self) -> None:
        """All that the node may ask has the model's answer."""
        machine, model = self.machine, self.model
        assert [machine.stats(name) for name in CHANNELS] == [model.stats(name) for name in CHANNELS]
        assert machine.channels() == sorted(model.channels)
        assert machine.lowest_live_index() == model.lowest_live_index()
        holds = [hold for _, hold in model.holds()]
        assert machine.next_due_unix_ns() == min((hold.deadline for hold in holds), default=None)
        assert set(machine.sessions()) == {hold.key.session for hold in holds}
        for session in (ALICE, BOB):
            assert machine.holds(session) == any(hold.key.session == session for hold in holds)
            assert machine.waits(session) == any(h.key.session == session and h.assigning is None for h in holds)
        assert (machine.now_unix_ns, machine.trimmed_index) == (model.now, model.trimmed)

    @invariant()
    def machine_and_twin_are_equal(self) -> None:
        """Restored or not, the state is the same to the byte."""
        assert self.machine.items() == self.twin.items()
        assert self.machine.digest() == self.twin.digest()


def test_machine_random_entries_agree_with_the_model_and_survive_restarts() -> None:
    run_state_machine_as_test(MachineAgainstModel, settings=settings(max_examples=60, stateful_step_count=30, deadline=None))
