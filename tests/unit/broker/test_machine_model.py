"""The machine against the slow model, a twin and its own stored changes, after every entry."""

from __future__ import annotations

from dataclasses import asdict, replace
from itertools import cycle, islice

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from tests.unit.broker.builders import ALICE, BOB, MILLISECOND, START, TINY, publish, receive, scheduled
from tests.unit.broker.trio import Held, Trio
from zmqbroker.commands import (
    Ack,
    ChannelSettings,
    Close,
    Command,
    CreateChannel,
    DeleteChannel,
    DeleteMessages,
    DeleteSchedule,
    Extend,
    HandOver,
    Nack,
    OpenProducer,
    Plan,
    Publish,
    Purge,
    Receipt,
    Redrive,
    Reject,
    Requeue,
    Run,
    SetDefaults,
    Tick,
    Trim,
    UpdateChannel,
    settings_said,
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
    group=st.sampled_from(["", "", "g", "g", "h"]),
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
    dedup_window_ms=st.sampled_from([0, 0, 1, 20, 1000]),
    single_active=st.sampled_from([False, False, True]),
    max_age_ms=st.sampled_from([0, 0, 0, 10, 30]),
)


def with_columns(command: Publish, said: list[Run], ids: list[bytes]) -> Publish:
    """The batch whose columns say that; `ids` are taken as often as there are messages."""
    header = replace(command.header, count=sum(run.count for run in said) or command.header.count)
    return replace(command, header=header, runs=tuple(said), ids=tuple(islice(cycle(ids), header.count)))


publishes = st.builds(
    with_columns,
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
        expected_sequence=st.one_of(st.none(), st.none(), st.integers(0, 9)),
    ),
    st.one_of(st.just([]), st.lists(runs, max_size=3)),
    st.one_of(st.just([]), st.lists(st.sampled_from([b"", b"1", b"2", b"3", b"4", b"5"]), max_size=5)),
)
handings = st.lists(publishes, min_size=1, max_size=3).map(tuple)
receives = st.builds(
    receive,
    st.integers(1, 6),
    session=sessions,
    request=st.integers(1, 3),
    consumer=consumers,
    channel=channels,
    count_min=st.integers(1, 4),
    size_max=st.sampled_from([1, 3, 5, 1000, 1000]),
    wait_ms=st.sampled_from([0, 2, 3, 20, 70, 130]),
    visibility_ms=visibilities_ms,
    auto_ack=st.sampled_from([False, False, True]),
    incarnation=incarnations,
    priority=st.sampled_from([0, 0, 0, 1, 9]),
)
sequence_ranges = st.tuples(st.integers(0, 12), st.integers(0, 12))
others: st.SearchStrategy[Command] = st.one_of(
    st.builds(OpenProducer, channels, st.integers(1, 3), incarnations),
    st.builds(Close, sessions, st.one_of(st.none(), consumers)),
    st.builds(Close, sessions, consumers, st.integers(1, 3)),
    st.just(Tick()),
    st.builds(Trim, st.integers(0, 50)),
)
explicit = st.sampled_from([(), (), ("max_messages",), ("dead_letter", "overflow")])
managing: st.SearchStrategy[Command] = st.one_of(
    st.builds(CreateChannel, channels, rules, explicit),
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


plans = st.one_of(
    st.builds(
        Plan,
        every_ms=st.sampled_from([1000, 1500]),
        first_unix_ns=st.sampled_from([0, 0, START - 700 * MILLISECOND, START + 900 * MILLISECOND]),
        times=st.sampled_from([0, 1, 2]),
        until_unix_ns=st.sampled_from([0, 0, START + 5000 * MILLISECOND]),
    ),
    st.builds(Plan, every_ms=st.just(1000), delay_ms=st.sampled_from([1, 15])),
    st.builds(Plan, cron=st.sampled_from(["*/1 * * * *", "*/7 * * * *"]), times=st.sampled_from([0, 2])),
)
names = st.sampled_from(["s", "s", "t", "u"])
saids = st.builds(
    lambda said, more: {**settings_said(said), **more},
    rules,
    st.sampled_from([{}, {}, {"create_on_use": False}, {"create_on_use": True}, {"max_messages": 0}]),
)
patterns = st.sampled_from(["*", ">", "a", "dead", "b.*", "more"])
ruling: st.SearchStrategy[Command] = st.one_of(
    st.builds(SetDefaults, patterns, saids, st.sampled_from([False, False, True])),
    st.builds(SetDefaults, patterns, st.just({})),
    st.builds(
        lambda name, plan, channel, run, checksum: scheduled(
            name, channel=channel, runs=run, checksum=checksum, **asdict(plan)
        ),
        names,
        plans,
        channels,
        st.sampled_from([(), (), (Run(1, expiry_ms=30, priority=1),), (Run(1, delay_ms=10),)]),
        st.sampled_from([7, 7, 8]),
    ),
    st.builds(DeleteSchedule, names),
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

    @rule(data=st.data(), skipped=st.integers(0, 1), step_ms=st.sampled_from([0, 0, 1, 1, 2, 8, 10, 20, -5, 700, 2500, 90_000]))
    def entry(self, data: st.DataObject, skipped: int, step_ms: int) -> None:
        """Apply one entry to all three and compare all they say."""
        self.trio.apply(data.draw(st.lists(self.commands(), min_size=1, max_size=6)), skipped, step_ms)

    def commands(self) -> st.SearchStrategy[Command]:
        """Commands that fit what has happened, most receipts are some that were given out."""
        held = self.trio.held()
        settles = [self.settles(held, complete=True), self.settles(held, complete=False)] if held else []
        again = [st.sampled_from(self.trio.done)] if self.trio.done else []
        return st.one_of(
            publishes, publishes, receives, receives, receives, *settles, *settles, *again, others, managing, ruling
        )

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
                st.builds(HandOver, *common, handings),
            )

        return owner.flatmap(of)

    @rule(data=st.data(), channel=channels, opened=st.booleans(), more=st.sampled_from([0, 0, 1, 2]))
    def hand_over(self, data: st.DataObject, channel: str, opened: bool, more: int) -> None:
        """What is held at once is handed over, with the numbers that producers have reached, and perhaps once more."""
        opening = [OpenProducer(data.draw(channels), data.draw(st.integers(1, 3)))] if opened else []
        self.trio.apply([*opening, data.draw(publishes), publish(2, channel=channel), receive(2, channel=channel, request=9)])
        session, name, receipt = data.draw(st.sampled_from(self.trio.in_hand() or [(ALICE, channel, Receipt(1, 1, 1))]))
        batches = tuple(map(self.trio.next_of, data.draw(handings)))
        command = HandOver(session, name, (receipt,), batches)
        self.trio.apply([command] * (1 + more))

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
