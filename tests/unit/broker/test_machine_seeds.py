"""The machine against the slow model once more, from plain seeds: what needs many rare things at once is found by density.

To replay one: pytest -k "seeds and SEED". For more of them: ZMQBROKER_SEEDS=FIRST:LAST.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, replace
from random import Random
from typing import Any

import pytest

from tests.unit.broker.builders import ALICE, BOB, MILLISECOND, START, TINY, publish, receive, scheduled
from tests.unit.broker.trio import CHANNELS, Held, Trio
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
    Publish,
    Purge,
    Receipt,
    Receive,
    Redrive,
    Reject,
    Requeue,
    Run,
    SetDefaults,
    Tick,
    UpdateChannel,
)

ENTRIES = 60

first, last = (int(bound) for bound in os.environ.get("ZMQBROKER_SEEDS", "0:12").split(":"))


class Commands:
    """Random commands that have much to do with each other."""

    def __init__(self, chance: Random, trio: Trio) -> None:
        self.chance, self.pick, self.trio = chance, chance.choice, trio
        self.held: list[Held] = []
        self.ids = [b"%d" % number for number in range(chance.choice([2, 6, 20]))]
        self.makers: list[Callable[[], Command]] = [
            *[self.publish] * 6,
            *[self.receive] * 6,
            *[self.settle] * 8,
            *[self.hand_over] * 4,
            *[self.manage] * 2,
            self.rule,
            lambda: Close(self.pick([ALICE, BOB]), self.pick([None, 0, 1]), self.pick([0, 0, 1, 2, 3])),
            lambda: OpenProducer(self.channel(), self.pick([1, 2, 3])),
            Tick,
        ]

    def some(self, held: list[Held]) -> list[Command]:
        """One to five commands."""
        self.held = held
        return [self.pick(self.makers)() for _ in range(self.chance.randint(1, 5))]

    def channel(self) -> str:
        return self.pick(["a", "a", "a", "a", "dead", *CHANNELS])

    def rules(self) -> ChannelSettings:
        return ChannelSettings(
            delivery_limit=self.pick([0, 1, 2, 3]),
            dead_letter=self.pick(["", "dead", "dead", "b"]),
            delay_ms=self.pick([0, 0, 10]),
            expiry_ms=self.pick([0, 0, 0, 20, 40]),
            max_messages=self.pick([0, 0, 4, 8]),
            max_bytes=self.pick([0, 0, 12, 25]),
            overflow=self.pick(["reject", "drop_oldest", "dead_letter", "dead_letter"]),
            max_in_flight=self.pick([0, 0, 0, 2, 4]),
            dedup_window_ms=self.pick([0, 20, 40, 1000]),
            single_active=self.pick([False, False, True]),
            max_age_ms=self.pick([0, 0, 0, 15, 40]),
        )

    def publish(self) -> Publish:
        runs = [
            Run(
                self.pick([1, 1, 2, 3]),
                self.pick([0, 0, 0, 10, 15]),
                self.pick([0, 0, 10, 30]),
                self.pick([0, 0, 1, 9]),
                self.pick(["", "", "g", "g", "h"]),
            )
            for _ in range(self.pick([0, 0, 1, 2, 3]))
        ]
        count = sum(run.count for run in runs) or self.pick([1, 2, 4])
        producer = self.pick([0, 0, 0, 1, 2])
        base = self.chance.randint(1, 12) if producer else 0
        sizes = self.pick([0, 2, 3]), self.pick([None, 3]), self.chance.randint(1, 9)
        return publish(
            count,
            channel=self.channel(),
            producer=producer,
            base=base,
            body_size=sizes[0],
            body_bytes=sizes[1],
            size=sizes[2],
            runs=tuple(runs),
            ids=[self.pick([b"", *self.ids]) for _ in range(count)] if self.chance.random() < 0.5 else (),
            expected_sequence=self.pick([None, None, None, None, 0, self.chance.randint(0, 30)]),
        )

    def receive(self) -> Receive:
        return receive(
            self.pick([1, 2, 3, 6]),
            session=self.pick([ALICE, BOB]),
            request=self.chance.randint(1, 6),
            consumer=self.pick([0, 1]),
            channel=self.channel(),
            count_min=self.pick([1, 1, 2, 4]),
            size_max=self.pick([3, 5, 1000, 1000]),
            wait_ms=self.pick([0, 0, 3, 20, 70, 130]),
            visibility_ms=self.pick([0, 2, 5, 15, 40]),
            auto_ack=self.pick([False, False, False, True]),
            priority=self.pick([0, 0, 0, 1, 9]),
        )

    def settle(self) -> Command:
        session, channel, receipt = self.pick(self.held or [(ALICE, "a", Receipt(1, 1, 1))])
        part = Receipt(receipt.assigning, receipt.first + self.pick([-1, 0, 1]), receipt.last - self.pick([-1, 0, 1]))
        receipts = self.pick(
            [(receipt,), (receipt,), (part,), (receipt, part), (part, self.pick(self.held or [(b"", "", part)])[2])]
        )
        kind = self.pick([Ack, Ack, Nack, Nack, Reject, Requeue, Extend])
        if kind is Nack:
            return Nack(session, channel, receipts, self.pick([0, 0, 5, 10]), self.pick([False, True]))
        if kind is Reject:
            return Reject(session, channel, receipts, self.pick(["", "requeued"]))
        if kind is Requeue:
            return Requeue(session, channel, receipts, self.channel())
        return Ack(session, channel, receipts) if kind is Ack else Extend(session, channel, receipts, self.pick([0, 2, 15, 40]))

    def hand_over(self) -> Command:
        """Most of it can be done: what is held, by producers that go on; now and then once more."""
        if self.trio.done and self.chance.random() < 0.3:
            return self.pick(self.trio.done)
        held = self.trio.in_hand()
        session, name, receipt = self.pick(held or self.held or [(ALICE, "a", Receipt(1, 1, 1))])
        others = [other for *owner, other in held if owner == [session, name] and other != receipt]
        receipts = (receipt, *others[: self.pick([0, 0, 1, 2])], *self.pick([(), (), (), (), (receipt,)]))
        batches = [self.numbered(self.publish(), place) for place in range(self.pick([1, 1, 2, 3]))]
        return HandOver(session, name, receipts, tuple(batches))

    def numbered(self, batch: Publish, place: int) -> Publish:
        """Now and then with any number; one in a place behind guesses what those before it are."""
        if self.chance.random() < 0.05:
            return batch
        good = self.trio.next_of(batch)
        if not good.header.producer or not place:
            return good
        return replace(good, header=replace(good.header, base_sequence=good.header.base_sequence + self.pick([0, place])))

    def manage(self) -> Command:
        channel, low = self.channel(), self.chance.randint(0, 20)
        commands: list[Command] = [
            CreateChannel(channel, self.rules()),
            UpdateChannel(channel, self.rules()),
            UpdateChannel("a", self.rules()),
            Purge(channel, self.pick([False, True])),
            DeleteMessages(channel, ((low, low + self.chance.randint(0, 5)), (3, 2))),
            Redrive(
                self.pick(["dead", "b", "a"]),
                self.pick(["", "", "a", "more"]),
                self.pick(["", "a"]),
                self.pick([0, 1, 3]),
                self.pick([1, 1, low]),
            ),
            DeleteChannel(self.pick(CHANNELS)),
        ]
        return self.pick(commands)

    def rule(self) -> Command:
        name, pick = self.pick(["s", "s", "t", "u"]), self.pick
        said = {key: value for key, value in asdict(self.rules()).items() if self.chance.random() < 0.4}
        uses: list[dict[str, bool]] = [{}, {}, {"create_on_use": False}, {"create_on_use": True}]
        more = pick(uses)
        plans: list[dict[str, Any]] = [
            {"every_ms": pick([1000, 1700]), "times": pick([0, 0, 1, 3])},
            {"every_ms": 1000, "delay_ms": pick([5, 40]), "until_unix_ns": pick([0, START + 4000 * MILLISECOND])},
            {"every_ms": 1000, "first_unix_ns": START + pick([-2500, 30, 1500]) * MILLISECOND},
            {"cron": pick(["*/1 * * * *", "*/3 * * * *"]), "times": pick([0, 2])},
        ]
        plan = pick(plans)
        treatments: list[tuple[Run, ...]] = [(), (), (Run(1, expiry_ms=30),), (Run(1, delay_ms=10, priority=9),)]
        runs = pick(treatments)
        commands: list[Command] = [
            SetDefaults(pick(["*", ">", "a", "dead"]), {**said, **more}, pick([False, False, True])),
            SetDefaults(pick(["*", ">", "a", "dead"])),
            scheduled(name, channel=self.channel(), checksum=pick([7, 7, 8]), runs=runs, **plan),
            scheduled(name, channel=self.channel(), **plan),
            DeleteSchedule(name),
        ]
        return pick(commands)


@pytest.mark.parametrize("seed", range(first, last))
def test_machine_entries_of_seeds_agree_with_the_model(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = Random(seed)
    for module in ("timetable", "deadlines"):  # so that tables with dead entries are made anew
        monkeypatch.setattr(f"zmqbroker.broker.{module}.SLACK", chance.choice([0, 64]))
    trio = Trio(replace(TINY, channels_max=chance.choice([1, 2, 3, 4]), waiting_max=chance.choice([1, 2, 3])))
    commands = Commands(chance, trio)
    trio.apply([CreateChannel("a", commands.rules())])
    for _ in range(ENTRIES):
        trio.apply(commands.some(trio.held()), chance.choice([0, 0, 1]), chance.choice([0, 1, 2, 8, 10, 20, -5, 700, 60_000]))
        trio.check()
        if chance.random() < 0.2:
            trio.restart()
            trio.check()
