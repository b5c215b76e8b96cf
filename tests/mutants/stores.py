"""Defects of events stores and their consumers: an event passed over, a place forgotten, a reader that is not pushed aside."""

from __future__ import annotations

from types import MappingProxyType

import pytest

from tests.mutants.mutant import Mutant, check
from tests.unit.broker.test_store_consumer import test_who_takes_over_goes_on_exactly_at_the_last_ack as taking_over
from zmqbroker.broker import opening, parts
from zmqbroker.broker.queue import Queue
from zmqbroker.broker.store_consumer import StoreConsumer

__all__ = ["MUTANTS"]

#: A store beside one queue, and little else to do.
_STORE = MappingProxyType(
    {
        "store": True,
        "producers": 1,
        "consumers": 1,
        "chaos_ns": 2_000_000_000,
        "fault_interval_ns": 300_000_000,
        "faults": ("kill", "transfer", "consumer_crash"),
    }
)


def pass_over(patch: pytest.MonkeyPatch) -> None:
    """Now and then a consumer takes up again one event too late."""
    take = StoreConsumer._take

    def taken(consumer: StoreConsumer) -> bool:
        more = take(consumer)
        if more and consumer.next_sequence % 5 == 0:
            consumer.next_sequence += 1
        return more and consumer.next_sequence < consumer.store.next_sequence

    patch.setattr(StoreConsumer, "_take", taken)


def forget_place(patch: pytest.MonkeyPatch) -> None:
    """A consumer that is read from the store is nobody's."""
    patch.setitem(parts.READERS, parts.PLACE, lambda queue, part_id, values: None)


def take_over_nothing(patch: pytest.MonkeyPatch) -> None:
    """What others hold stays theirs when one reader opens a consumer for itself."""
    patch.setattr(opening, "give_back", lambda channels, assignment, moment, served: 0)


def leave_entry(patch: pytest.MonkeyPatch) -> None:
    """The entry of what a consumer holds counts as live once too rarely."""
    append = Queue.append

    def appended(queue: Queue, *arguments: object) -> None:
        append(queue, *arguments)  # type: ignore[arg-type]
        if isinstance(queue, StoreConsumer):
            queue._entries.remove(next(iter(queue.batches)).value.index)

    patch.setattr(StoreConsumer, "append", appended)


MUTANTS = (
    Mutant(
        id="E1",
        breaks="a consumer passes over an event",
        apply=pass_over,
        caught_by=frozenset(("I16", "I25")),
        options=_STORE,
        seeds=4,
    ),
    Mutant(
        id="E2",
        breaks="the reader of an exclusive consumer is forgotten on restore",
        apply=forget_place,
        caught_by=frozenset(("I13", "I14")),
        options=_STORE,
        seeds=6,
    ),
    Mutant(
        id="E3",
        breaks="who takes over does not get what is held",
        apply=take_over_nothing,
        check=check(taking_over),
    ),
    Mutant(
        id="E4",
        breaks="a consumer's entry may be trimmed while it holds messages of it",
        apply=leave_entry,
        caught_by=frozenset(("I0", "I13", "I14")),
        stumbles=KeyError,
        options=_STORE,
        seeds=4,
    ),
)
