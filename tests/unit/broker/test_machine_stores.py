"""The machine against the slow model, with events stores and durable consumers among the channels, from plain seeds.

To replay one: pytest -k "seeds and SEED". For more of them: ZMQBROKER_SEEDS=FIRST:LAST.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, replace
from random import Random

import pytest

from tests.unit.broker.builders import ALICE, BOB, MILLISECOND, START, TINY, scheduled
from tests.unit.broker.model_stores import ModelConsumer, ModelStore, StoreModel
from tests.unit.broker.test_machine_seeds import Commands
from tests.unit.broker.trio import Trio
from zmqbroker.broker import MachineLimits
from zmqbroker.broker.store_consumer import StoreConsumer
from zmqbroker.commands import (
    STARTS,
    ChannelSettings,
    Command,
    CreateChannel,
    DeleteChannel,
    OpenConsumer,
    Publish,
    Receive,
    ResetConsumer,
    SetDefaults,
    UpdateChannel,
    has_setting,
)

ENTRIES = 80

STORES = ["events_store:s", "events_store:s", "events_store:s", "events_store:t"]
CONSUMERS = ["events_store:s>a", "events_store:s>a", "events_store:s>b", "events_store:t>a"]
NAMES = ["a", "dead", *sorted({*STORES, *CONSUMERS})]

first, last = (int(bound) for bound in os.environ.get("ZMQBROKER_SEEDS", "0:14").split(":"))


class StoreTrio(Trio):
    """Three machines, and what readers ask of them."""

    names = NAMES

    def __init__(self, limits: MachineLimits) -> None:
        super().__init__(limits, StoreModel(limits))

    def check_answers(self) -> None:
        super().check_answers()
        for name, store in self.model.channels.items():
            if not isinstance(store, ModelStore):
                continue
            machine = self.machine.store(name)
            assert machine is not None
            live = store.live()
            assert (machine.first_sequence, machine.last_sequence) == (store.first(), len(store.messages))
            assert machine.newest() == (live[-1].sequence if live else None)
            for instant in [START, *(m.part.time + step for m in live for step in (0, 1))]:
                assert machine.since(instant) == store.since(instant)
            for key in ("g", "h"):
                kept = store.newest_of_key(key) if store.settings.keep_latest else None
                assert machine.newest_of_key(key) == kept
            there = [(c.name, c.owner) for c in sorted(store.consumers, key=lambda c: c.name)]
            owners = [(c.name, tuple(c.owner) if c.owner.session else None) for c in self.machine.consumers(name)]
            assert owners == there

    def check_counts(self) -> None:
        for name in self.machine.channels():
            queue = self.machine.channel(name)
            stats = self.machine.stats(name)
            assert stats is not None
            assert stats.depth == stats.ready + stats.in_flight + stats.delayed + stats.parked
            if isinstance(queue, StoreConsumer):
                assert stats.position <= stats.last_sequence + 1
                continue
            gone = stats.acked + stats.expired + stats.dropped + stats.dead_lettered + stats.moved + stats.deduplicated
            assert stats.last_sequence == gone + stats.depth


class StoreCommands(Commands):
    """Random commands; most of them are about stores and their consumers."""

    def __init__(self, chance: Random, trio: Trio) -> None:
        super().__init__(chance, trio)
        more: list[Callable[[], Command]] = [*[self.open] * 4, self.reset, self.defaults]
        more += [*[self.publish] * 6, *[self.receive] * 6]
        self.makers += more
        self.receiving = False

    def channel(self) -> str:
        kinds = [CONSUMERS] * 6 + [STORES] if self.receiving else [STORES] * 6 + [CONSUMERS]
        return self.pick(self.pick([*kinds, ["a", "dead"]]))

    def publish(self) -> Publish:
        """As a rule one that a store takes."""
        command = super().publish()
        if self.chance.random() < 0.2:
            return command
        runs = tuple(replace(run, delay_ms=0, expiry_ms=self.pick([0, 0, run.expiry_ms])) for run in command.runs)
        command = replace(command, header=replace(command.header, channel=self.pick(STORES)), runs=runs)
        return self.trio.next_of(replace(command, expected_sequence=None))

    def receive(self) -> Receive:
        """As a rule one of those who may."""
        self.receiving = True
        command = super().receive()
        self.receiving = False
        consumer = self.trio.model.channels.get(command.channel)
        if isinstance(consumer, ModelConsumer) and consumer.owner is not None and self.chance.random() < 0.8:
            session, number = consumer.owner
            command = replace(command, key=replace(command.key, session=session, consumer=number))
        return command

    def settings_of(self, channel: str) -> ChannelSettings:
        """As a rule such as it can have."""
        rules = replace(self.rules(), keep_latest=self.pick([False, False, True]))
        if self.chance.random() < 0.1:
            return rules
        usual = asdict(ChannelSettings())
        settings = {name: value if has_setting(channel, name) else usual[name] for name, value in asdict(rules).items()}
        settings["overflow"] = self.pick(["reject", "drop_oldest"])
        return ChannelSettings(**settings)

    def open(self) -> Command:
        channel = self.pick(CONSUMERS)
        store, _, consumer = channel.partition(">")
        exclusive, session, number = self.pick([True, False]), self.pick([ALICE, BOB]), self.pick([0, 1])
        settings = self.settings_of(channel) if self.chance.random() < 0.3 else ChannelSettings()
        settings = replace(settings, overflow="reject" if self.chance.random() < 0.9 else settings.overflow)
        explicit = self.pick([(), (), ("dead_letter",)])
        return OpenConsumer(store, consumer, *self.place(), exclusive, session, number, settings, explicit)

    def place(self) -> tuple[str, int]:
        start = self.pick(STARTS)
        values = {
            "sequence": self.pick([0, 1, self.chance.randint(1, 20), self.chance.randint(1, 60)]),
            "time": self.trio.now - self.pick([0, 1, 10, 30, 1000]) * MILLISECOND,
            "time_delta_ms": self.pick([0, 1, 10, 30, 10_000]),
        }
        return start, values.get(start, 0)

    def reset(self) -> Command:
        store, _, consumer = self.pick(CONSUMERS).partition(">")
        return ResetConsumer(store, consumer, *self.place())

    def manage(self) -> Command:
        store, consumer = self.pick(STORES), self.pick(CONSUMERS)
        explicit = self.pick([(), ("overflow",)])
        own: list[Command] = [
            CreateChannel(store, self.settings_of(store), explicit),
            UpdateChannel(store, self.settings_of(store), explicit),
            UpdateChannel(consumer, self.settings_of(consumer)),
            DeleteChannel(self.pick([store, consumer, consumer])) if self.chance.random() < 0.3 else self.open(),
        ]
        return self.pick([*own, super().manage()])

    def defaults(self) -> Command:
        rules = asdict(replace(self.rules(), dead_letter=self.pick(["dead", *CONSUMERS]), keep_latest=self.pick([False, True])))
        said = {key: value for key, value in rules.items() if self.chance.random() < 0.3}
        return SetDefaults(self.pick([">", "events_store:s", "events_store:s>a"]), said)

    def rule(self) -> Command:
        return self.pick([super().rule(), scheduled("s", channel=self.pick(STORES), every_ms=1000)])


@pytest.mark.parametrize("seed", range(first, last))
def test_machine_with_stores_entries_of_seeds_agree_with_the_model(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = Random(seed)
    for module in ("timetable", "deadlines"):  # so that tables with dead entries are made anew
        monkeypatch.setattr(f"zmqbroker.broker.{module}.SLACK", chance.choice([0, 64]))
    trio = StoreTrio(replace(TINY, channels_max=chance.choice([4, 6, 9]), waiting_max=chance.choice([2, 3])))
    commands = StoreCommands(chance, trio)
    trio.apply([CreateChannel(STORES[0], commands.settings_of(STORES[0]))])
    for _ in range(ENTRIES):
        trio.apply(commands.some(trio.held()), chance.choice([0, 0, 1]), chance.choice([0, 1, 2, 8, 10, 20, -5, 700, 60_000]))
        trio.check()
        if chance.random() < 0.2:
            trio.restart()
            trio.check()
