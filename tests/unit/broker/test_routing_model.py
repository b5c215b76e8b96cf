"""Stores, bindings and sends to several channels: the machine against the slow model, a twin and its own stored changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any, TypeVar

import pytest

from tests.unit.broker.builders import ALICE, BOB, TINY, publish, receive, scheduled
from tests.unit.broker.model_stores import StoreModel
from tests.unit.broker.trio import Trio
from zmqbroker.commands import (
    Ack,
    ChannelSettings,
    Close,
    Command,
    CreateChannel,
    DeleteBinding,
    DeleteChannel,
    DeleteRoute,
    HandOver,
    Nack,
    OpenProducer,
    Publish,
    PublishAll,
    Purge,
    Redrive,
    Run,
    SetBinding,
    SetDefaults,
    SetRoute,
    UpdateChannel,
)

STORES = ["events_store:x", "events_store:x.1", "events_store:y"]
QUEUES = ["a", "b", "dead"]
CHANNELS = [*STORES, *QUEUES]
SOURCES = ["events_store:x", "events_store:x.*", "events_store:>", "events_store:*", "events:x"]
ENTRIES = 60

Value = TypeVar("Value")


class Commands:
    """Random commands, most of which do something."""

    def __init__(self, chance: Random, trio: Trio) -> None:
        self.chance, self.trio = chance, trio

    def pick(self, values: list[Value]) -> Value:
        return self.chance.choice(values)

    def settings(self) -> ChannelSettings:
        pick = self.pick
        bounds: dict[str, Any] = {
            "max_messages": pick([0, 2, 3, 5]),
            "max_bytes": pick([0, 0, 12]),
            "overflow": pick(["reject", "reject", "drop_oldest", "dead_letter"]),
            "dead_letter": pick(["", "dead", "dead", "a"]),
            "dedup_window_ms": pick([0, 0, 1000]),
            "delay_ms": pick([0, 0, 0, 10]),
            "expiry_ms": pick([0, 0, 20]),
            "max_age_ms": pick([0, 0, 30]),
        }
        return ChannelSettings(**bounds)

    def batch(self, channel: str) -> Publish:
        pick = self.pick
        count = pick([1, 1, 2, 3])
        runs = pick([(), (), (Run(count, priority=3, group=pick(["", "g"])),), (Run(count, delay_ms=10, expiry_ms=30),)])
        ids = pick([(), (), tuple(pick([b"", b"1", b"2", b"3"]) for _ in range(count))])
        frame: dict[str, int] = {"position": pick([16, 17]), "size": pick([3, 5, 9]), "body_size": pick([1, 2])}
        return publish(count, channel=channel, runs=runs, ids=ids, expected_sequence=pick([None] * 5 + [0, 1]), **frame)

    def numbered(self, batch: Publish) -> Publish:
        """With the number that a producer has reached there, or an earlier one, or the one after."""
        header = replace(batch.header, producer=self.pick([1, 2]))
        there = self.trio.model.channels.get(header.channel)
        known = there.producers.get(header.producer) if there else None
        base = max(1, (known.last if known else 0) + self.pick([1, 1, 1, 0, -1, 2]))
        return replace(batch, header=replace(header, base_sequence=base))

    def routed(self) -> Command:
        names = self.chance.sample(CHANNELS, self.pick([1, 2, 3]))
        like = self.batch(names[0])
        batches = [replace(like, header=replace(like.header, channel=name)) for name in names]
        if self.chance.random() < 0.5:
            batches = [self.numbered(batch) for batch in batches]
        return PublishAll(tuple(batches if self.chance.random() < 0.95 else [*batches, batches[0]]))

    def handing(self) -> Command:
        held = self.trio.held()
        if not held:
            return self.routed()
        session, channel, receipt = self.pick(held)
        return HandOver(session, channel, (receipt,), tuple(self.batch(name) for name in self.chance.sample(CHANNELS, 2)))

    def holding(self) -> Command:
        held = self.trio.held()
        if not held:
            return receive(3, channel=self.pick(QUEUES))
        session, channel, receipt = self.pick(held)
        commands: list[Command] = [Ack(session, channel, (receipt,)), Nack(session, channel, (receipt,))]
        return self.pick(commands)

    def rule(self) -> Command:
        pick = self.pick
        queues = ";".join(self.chance.sample(QUEUES, pick([1, 1, 2])))
        commands: list[Command] = [
            SetBinding(pick(SOURCES), queues),
            SetBinding(pick(SOURCES), queues),
            DeleteBinding(pick(SOURCES)),
            SetRoute(pick(["r", "s", "t"]), pick(["a;b", "events:x", "events_store:y", "a;routes:r"])),
            DeleteRoute(pick(["r", "s", "t"])),
            SetDefaults(pick(["*", "a", "b"]), pick([{}, {"create_on_use": False}, {"max_messages": 2}])),
        ]
        return pick(commands)

    def managing(self) -> Command:
        pick = self.pick
        commands: list[Command] = [
            CreateChannel(pick(QUEUES), self.settings()),
            UpdateChannel(pick(CHANNELS), self.settings()),
            DeleteChannel(pick(CHANNELS)),
            Purge(pick(CHANNELS)),
            Redrive(pick(QUEUES), pick(["", "", "more"])),
            Close(pick([ALICE, BOB])),
            scheduled(pick(["s", "t"]), channel=pick(STORES), every_ms=1000, times=2),
        ]
        return pick(commands)

    def some(self) -> list[Command]:
        pick = self.pick
        one: dict[str, Callable[[], Command]] = {
            "store": lambda: self.batch(pick(STORES)),
            "numbered": lambda: self.numbered(self.batch(pick(CHANNELS))),
            "open": lambda: OpenProducer(pick(CHANNELS), pick([1, 2])),
            "receive": lambda: receive(pick([1, 3]), channel=pick(QUEUES), request=pick([1, 2, 3]), wait_ms=pick([0, 20])),
            "routed": self.routed,
            "handing": self.handing,
            "holding": self.holding,
            "rule": self.rule,
            "managing": self.managing,
        }
        often = ["store", "store", "routed", "routed", "routed", "open", "numbered", "receive", "receive", "holding", "rule"]
        return [one[pick([*often, "handing", "managing"])]() for _ in range(pick([1, 2, 4]))]


@pytest.mark.parametrize("seed", range(16))
def test_routing_entries_of_seeds_agree_with_the_model(seed: int) -> None:
    chance = Random(seed)
    limits = replace(TINY, channels_max=chance.choice([2, 4, 6]), producers_max=chance.choice([1, 3]))
    trio = Trio(limits, StoreModel(limits))
    commands = Commands(chance, trio)
    trio.apply([CreateChannel("a", commands.settings()), SetBinding("events_store:>", "a")])
    for _ in range(ENTRIES):
        trio.apply(commands.some(), step_ms=chance.choice([0, 1, 8, 20, 700]))
        trio.check()
        assert [trio.machine.stats(name) for name in CHANNELS] == [trio.model.stats(name) for name in CHANNELS]
        if chance.random() < 0.2:
            trio.restart()
            trio.check()
