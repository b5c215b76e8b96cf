"""The machine against the slow model, a twin and its own stored changes, after every entry."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from tests.unit.broker.builders import ALICE, BOB, TINY, publish, receive
from tests.unit.broker.trio import Held, Trio
from zmqbroker.commands import (
    Ack,
    ChannelSettings,
    Close,
    Command,
    CreateChannel,
    DeleteChannel,
    DeleteMessages,
    Extend,
    Nack,
    OpenProducer,
    Publish,
    Purge,
    Receipt,
    Redrive,
    Reject,
    Requeue,
    Run,
    Tick,
    Trim,
    UpdateChannel,
)

channels = st.sampled_from(["a", "a", "a", "a", "a", "a", "b", "dead", "more"])
sessions = st.sampled_from([ALICE, BOB])
consumers = st.integers(0, 1)
incarnations = st.sampled_from([0, 0, 0, 0, 0, 0, 1])
visibilities_ms = st.sampled_from([0, 1, 2, 5, 15, 15])
runs = st.builds(
    Run,
    st.integers(1, 3),
    delay_ms=st.sampled_from([0, 0, 1, 10, 15]),
    expiry_ms=st.sampled_from([0, 0, 5, 10, 30]),
    priority=st.sampled_from([0, 0, 1, 9]),
)
rules = st.builds(
    ChannelSettings,
    delivery_limit=st.sampled_from([0, 1, 2, 3]),
    dead_letter=st.sampled_from(["", "dead", "dead", "b", "a"]),
    delay_ms=st.sampled_from([0, 0, 0, 10]),
    expiry_ms=st.sampled_from([0, 0, 0, 20]),
    max_messages=st.sampled_from([0, 0, 3, 6]),
    max_bytes=st.sampled_from([0, 0, 20]),
    overflow=st.sampled_from(["reject", "drop_oldest", "dead_letter", "dead_letter"]),
    max_in_flight=st.sampled_from([0, 0, 0, 2, 4]),
)


def with_runs(command: Publish, said: list[Run]) -> Publish:
    """The batch whose columns say that."""
    header = replace(command.header, count=sum(run.count for run in said) or command.header.count)
    return replace(command, header=header, runs=tuple(said))


publishes = st.builds(
    with_runs,
    st.builds(
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
    ),
    st.one_of(st.just([]), st.lists(runs, max_size=3)),
)
receives = st.builds(
    receive,
    st.integers(1, 6),
    session=sessions,
    request=st.integers(1, 3),
    consumer=consumers,
    channel=channels,
    count_min=st.integers(1, 4),
    size_max=st.sampled_from([1, 3, 5, 1000, 1000]),
    wait_ms=st.sampled_from([0, 2, 3, 20]),
    visibility_ms=visibilities_ms,
    incarnation=incarnations,
)
sequence_ranges = st.tuples(st.integers(0, 12), st.integers(0, 12))
others: st.SearchStrategy[Command] = st.one_of(
    st.builds(OpenProducer, channels, st.integers(1, 3), incarnations),
    st.builds(Close, sessions, st.one_of(st.none(), consumers)),
    st.just(Tick()),
    st.builds(Trim, st.integers(0, 50)),
)
managing: st.SearchStrategy[Command] = st.one_of(
    st.builds(CreateChannel, channels, rules),
    st.builds(UpdateChannel, channels, rules),
    st.builds(UpdateChannel, channels, rules),
    st.builds(DeleteChannel, channels),
    st.builds(Purge, channels, st.booleans()),
    st.builds(DeleteMessages, channels, st.lists(sequence_ranges, max_size=2).map(tuple)),
    st.builds(
        Redrive,
        st.sampled_from(["dead", "dead", "b", "a"]),
        st.sampled_from(["", "", "a", "more"]),
        st.sampled_from(["", "", "a", "b"]),
        st.sampled_from([0, 0, 1, 3]),
        st.integers(0, 5),
    ),
)


class MachineAgainstModel(RuleBasedStateMachine):
    """Random entries and restarts."""

    def __init__(self) -> None:
        super().__init__()
        self.trio = Trio(TINY)

    @initialize(channels_max=st.integers(1, 4), waiting_max=st.integers(1, 3), settings=st.one_of(st.none(), rules, rules))
    def begin(self, channels_max: int, waiting_max: int, settings: ChannelSettings | None) -> None:
        """Limits for this run; as a rule the channel that is used most has rules from the start."""
        self.trio = Trio(replace(TINY, channels_max=channels_max, waiting_max=waiting_max))
        if settings is not None:
            self.trio.apply([CreateChannel("a", settings)])

    @rule(data=st.data(), skipped=st.integers(0, 1), step_ms=st.sampled_from([0, 0, 1, 1, 2, 8, 10, 20, -5]))
    def entry(self, data: st.DataObject, skipped: int, step_ms: int) -> None:
        """Apply one entry to all three and compare all they say."""
        self.trio.apply(data.draw(st.lists(self.commands(), min_size=1, max_size=6)), skipped, step_ms)

    def commands(self) -> st.SearchStrategy[Command]:
        """Commands that fit what has happened, most receipts are some that were given out."""
        held = self.trio.held()
        settles = [self.settles(held, complete=True), self.settles(held, complete=False)] if held else []
        return st.one_of(publishes, publishes, receives, receives, receives, *settles, *settles, others, managing)

    def settles(self, held: list[Held], *, complete: bool) -> st.SearchStrategy[Command]:
        """What holders do, with whole receipts or with any parts, which may be anyone's."""
        whole = st.sampled_from(held)
        edges = st.just(0) if complete else st.integers(-1, 2)
        cut = st.builds(
            lambda r, low, high: Receipt(r.assigning, r.first + low, r.last - high), st.just(held[0][2]), edges, edges
        )
        parts = st.lists(st.one_of(whole.map(lambda one: one[2]), cut), min_size=1, max_size=3).map(tuple)
        owner = whole if complete else st.tuples(sessions, channels, st.just(held[0][2]))

        def of(one: Held) -> st.SearchStrategy[Command]:
            session, channel, receipt = one
            common = st.just(session), st.just(channel), st.just((receipt,)) if complete else parts
            return st.one_of(
                st.builds(Ack, *common),
                st.builds(Nack, *common, st.sampled_from([0, 0, 5, 10]), st.booleans()),
                st.builds(Reject, *common, st.sampled_from(["", "broken", "requeued"])),
                st.builds(Requeue, *common, channels),
                st.builds(Extend, *common, visibilities_ms),
            )

        return owner.flatmap(of)

    @rule(restarting=st.booleans())
    def flush(self, restarting: bool) -> None:
        """Bring the stored keys up to date, and go on with what they hold, or not."""
        if restarting:
            self.trio.restart()
        else:
            self.trio.flush()

    @invariant()
    def machine_and_model_agree(self) -> None:
        """All that the node may ask has the model's answer."""
        self.trio.check()


def test_machine_random_entries_agree_with_the_model_and_survive_restarts() -> None:
    run_state_machine_as_test(MachineAgainstModel, settings=settings(max_examples=60, stateful_step_count=30, deadline=None))
