"""Defects of smart routing: a bound queue that is passed over, a binding forgotten, a repeat taken for a new message."""

from __future__ import annotations

from types import MappingProxyType

import pytest

from tests.mutants.mutant import Mutant
from zmqbroker.broker import atomic, feeding
from zmqbroker.broker.bindings import Bindings
from zmqbroker.broker.channels import Channels
from zmqbroker.broker.moving import Served
from zmqbroker.broker.records import Moment
from zmqbroker.commands import Delivery, Publish, Published, Result

__all__ = ["MUTANTS"]

#: A store that feeds a queue, and sends to it and another queue at once, beside little else.
_ROUTED = MappingProxyType(
    {
        "store": True,
        "routed": True,
        "producers": 1,
        "consumers": 1,
        "chaos_ns": 2_000_000_000,
        "fault_interval_ns": 300_000_000,
        "faults": ("kill", "transfer", "producer_crash"),
    }
)


def feed_nothing(patch: pytest.MonkeyPatch) -> None:
    """What is sent to several channels at once is in a store, and not in the queues that are bound to it."""
    patch.setattr(atomic, "feed", lambda channels, batch, stored, moment, frame, served: None)


def feed_repeats(patch: pytest.MonkeyPatch) -> None:
    """A repeat that a store knows is in its queues once more."""
    publish = feeding.publish_and_feed

    def fed(channels: Channels, command: Publish, moment: Moment, deliveries: list[Delivery]) -> Result:
        result = publish(channels, command, moment, deliveries)
        if isinstance(result, Published) and result.duplicate:
            feeding.feed(channels, command, result, moment, moment, Served())
        return result

    patch.setattr("zmqbroker.broker.machine.publish_and_feed", fed)


def forget_bindings(patch: pytest.MonkeyPatch) -> None:
    """Bindings that are read from the store are gone."""
    patch.setattr(Bindings, "restore", lambda bindings, key, value: None)


MUTANTS = (
    Mutant(
        id="R1",
        breaks="a send to several channels does not feed the queues that are bound",
        apply=feed_nothing,
        caught_by=frozenset(("I16", "I25")),
        options=_ROUTED,
        seeds=4,
    ),
    Mutant(
        id="R2",
        breaks="a repeat is stored in a bound queue once more",
        apply=feed_repeats,
        caught_by=frozenset(("I16",)),
        options=_ROUTED,
        seeds=8,
    ),
    Mutant(
        id="R3",
        breaks="a binding is forgotten on restore",
        apply=forget_bindings,
        caught_by=frozenset(("I13", "I14")),
        options=_ROUTED,
        seeds=6,
    ),
)
