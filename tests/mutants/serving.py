"""Defects of the state machine and of what a node does beside it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from zmqbroker.broker import Applied, parts
from zmqbroker.broker.producers import Producers
from zmqbroker.commands import Result
from zmqbroker.raft.messages import Entry
from zmqbroker.server.clock import LeaderClock
from zmqbroker.server.group import Group
from zmqbroker.wire.entries import decode_entry

__all__ = [
    "deliver_as_follower",
    "drop_producers",
    "forget_stamps_in_log",
    "own_clock_at_apply",
    "own_clock_at_election",
    "store_again",
]


def drop_producers(patch: pytest.MonkeyPatch) -> None:
    """M16: a state that is read from the store, or comes as a snapshot, has no producers."""
    patch.setitem(parts.READERS, parts.PRODUCER, lambda queue, producer, values: None)


def own_clock_at_apply(patch: pytest.MonkeyPatch) -> None:
    """M17: every replica expires by its own clock."""

    def commands(group: Group, entry: Entry) -> tuple[Applied, Sequence[Result]]:
        decoded = decode_entry(entry.data) if entry.data else None
        applied = group.machine.apply(entry.index, group._clock.wall_unix_ns(), decoded.commands if decoded else ())
        return applied, applied.results

    patch.setattr(Group, "_commands", commands)


def own_clock_at_election(patch: pytest.MonkeyPatch) -> None:
    """A new leader's time is that of its own clock, wrong as it may be."""
    patch.setattr(Group, "_quorum_unix_ns", lambda group: group._clock.wall_unix_ns())


def forget_stamps_in_log(patch: pytest.MonkeyPatch) -> None:
    """A new leader's clock begins behind what it has applied, and never learns what an earlier leader has stamped since."""
    patch.setattr(LeaderClock, "pass_by", lambda clock, stamp_unix_ns: None)


def deliver_as_follower(patch: pytest.MonkeyPatch) -> None:
    """M26: whoever lost leadership keeps the receives that wait, and answers them when it applies what they get."""
    commands, stop_leading = Group._commands, Group._stop_leading

    def executed(group: Group, entry: Entry) -> tuple[Applied, Sequence[Result]]:
        applied, results = commands(group, entry)
        if not group.leading:
            for delivery in applied.deliveries:
                group._deliver(delivery)
        return applied, results

    def stopped(group: Group) -> None:
        receivers, group.receivers = group.receivers, {}
        stop_leading(group)
        group.receivers = receivers

    patch.setattr(Group, "_commands", executed)
    patch.setattr(Group, "_stop_leading", stopped)


def store_again(patch: pytest.MonkeyPatch) -> None:
    """A batch that comes again is stored again."""
    patch.setattr(Producers, "check", lambda producers, header: None)
