"""The machine against the slow model with all of it together: stores, durable consumers, bindings, sends to several channels.

Consumers wait while their store is published to in every way there is (a send, a send to several channels, a hand-over, a
schedule, dead letters, a redrive); the queues that it is bound to are full, keyed, deduplicating, or one consumer's alone.
To replay one: pytest -k "seeds and SEED". For more of them: ZMQBROKER_SEEDS=FIRST:LAST.
"""

from __future__ import annotations

import os
from dataclasses import replace
from random import Random

import pytest

from tests.unit.broker.builders import TINY, scheduled
from tests.unit.broker.test_machine_stores import NAMES, STORES, StoreCommands, StoreTrio
from zmqbroker.commands import (
    ChannelSettings,
    Command,
    CreateChannel,
    DeleteBinding,
    DeleteRoute,
    HandOver,
    Publish,
    PublishAll,
    Redrive,
    Reject,
    Requeue,
    SetBinding,
    SetRoute,
    UpdateChannel,
)

ENTRIES = 80

SOURCES = ["events_store:s", "events_store:*", "events_store:>", "events_store:t", "events:s"]
QUEUES = ["a", "b", "dead"]

first, last = (int(bound) for bound in os.environ.get("ZMQBROKER_SEEDS", "0:10").split(":"))


class TogetherTrio(StoreTrio):
    """Three machines, with queues that are bound."""

    names = sorted({*NAMES, *QUEUES})

    def check_answers(self) -> None:
        super().check_answers()
        live = {part.index for channel in self.model.channels.values() for part in channel.parts()}
        live |= {schedule.index for schedule in self.model.schedules.values()}
        for after in (0, self.index // 2, self.index - 3):  # as the log is trimmed up to there
            assert list(self.machine.live_indexes(after)) == sorted(index for index in live if index > after)


class TogetherCommands(StoreCommands):
    """Random commands about stores that feed queues and consumers."""

    def __init__(self, chance: Random, trio: TogetherTrio) -> None:
        super().__init__(chance, trio)
        self.makers += [*[self.send_all] * 6, *[self.bind] * 2, *[self.send_back] * 3, self.redrive, *[self.hand_over] * 2]
        self.queue_share = chance.choice([0.1, 0.4])

    def channel(self) -> str:
        """Queues are as likely as consumers, for those who receive."""
        return self.pick(QUEUES) if self.chance.random() < self.queue_share else super().channel()

    def rules(self) -> ChannelSettings:
        """Dead letters may go to a store, too."""
        rules = super().rules()
        return replace(rules, dead_letter=self.pick([*STORES, "b"])) if self.chance.random() < 0.2 else rules

    def send_all(self) -> PublishAll:
        """One batch for several channels, as a rule one that all of them take."""
        like = self.publish()
        names = [like.header.channel, *self.chance.sample(sorted({*STORES, *QUEUES}), self.pick([1, 2, 3]))]
        if self.chance.random() < 0.97:
            names = list(dict.fromkeys(names))
        batches = [replace(like, header=replace(like.header, channel=name)) for name in names]
        if like.header.producer:
            batches = [self.trio.next_of(batch) if self.chance.random() < 0.9 else batch for batch in batches]
        return PublishAll(tuple(batches))

    def bind(self) -> Command:
        wanted = ";".join(self.chance.sample(QUEUES, self.pick([1, 1, 2])))
        rules: list[Command] = [
            SetBinding(self.pick(SOURCES), wanted),
            SetBinding(self.pick(SOURCES), wanted),
            DeleteBinding(self.pick(SOURCES)) if self.chance.random() < 0.5 else SetRoute("r", "a;events_store:s"),
            DeleteRoute("r"),
            UpdateChannel(self.pick(QUEUES), self.rules()),
        ]
        return self.pick(rules)

    def send_back(self) -> Command:
        """Whatever is held goes to a store: as a dead letter, or requeued."""
        held = self.trio.in_hand()
        if not held:
            return self.receive()
        session, channel, receipt = self.pick(held)
        back: list[Command] = [
            Reject(session, channel, (receipt,), "bad"),
            Requeue(session, channel, (receipt,), self.pick(STORES)),
        ]
        return self.pick(back)

    def redrive(self) -> Command:
        return Redrive(self.pick(QUEUES), self.pick(["", "", *STORES]), self.pick(["", *STORES]), self.pick([0, 1, 3]), 1)

    def hand_over(self) -> HandOver:
        """Into stores, as often as anywhere."""
        command = super().hand_over()
        assert isinstance(command, HandOver)
        if command in self.trio.done or self.chance.random() < 0.5:
            return command
        names = [self.pick(sorted({*STORES, *QUEUES})) for _ in command.batches]
        moved = [self.moved(batch, name) for batch, name in zip(command.batches, names, strict=True)]
        return replace(command, batches=tuple(moved))

    def moved(self, batch: Publish, name: str) -> Publish:
        batch = replace(batch, runs=tuple(replace(run, delay_ms=0) for run in batch.runs))
        return self.trio.next_of(replace(batch, header=replace(batch.header, channel=name)))

    def rule(self) -> Command:
        store = scheduled(
            self.pick(["s", "t"]), channel=self.pick(STORES), every_ms=self.pick([1000, 1500]), times=self.pick([0, 2])
        )
        return self.pick([store, super().rule()])


@pytest.mark.parametrize("seed", range(first, last))
def test_machine_with_all_together_entries_of_seeds_agree_with_the_model(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = Random(seed)
    for module in ("timetable", "deadlines"):  # so that tables with dead entries are made anew
        monkeypatch.setattr(f"zmqbroker.broker.{module}.SLACK", chance.choice([0, 64]))
    limits = replace(TINY, channels_max=chance.choice([5, 8, 12]), bindings_max=3, bound_queues_max=chance.choice([3, 6]))
    trio = TogetherTrio(limits)
    commands = TogetherCommands(chance, trio)
    trio.apply([CreateChannel(STORES[0], commands.settings_of(STORES[0])), SetBinding(chance.choice(SOURCES[:3]), "a;b")])
    trio.apply([CreateChannel("a", commands.rules()), CreateChannel("b", commands.rules()), commands.open()])
    for _ in range(ENTRIES):
        trio.apply(commands.some(trio.held()), chance.choice([0, 0, 1]), chance.choice([0, 1, 2, 8, 10, 20, -5, 700, 60_000]))
        trio.check()
        if chance.random() < 0.2:
            trio.restart()
            trio.check()
