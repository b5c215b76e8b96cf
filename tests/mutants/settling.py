"""Defects of what is done with messages beside send, receive and ack: counts, delays, limits, expiry, dead letters."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest

from tests.mutants.mutant import Mutant
from zmqbroker.broker import moving, parts, settling
from zmqbroker.broker.backlog import Later
from zmqbroker.broker.queue import Queue
from zmqbroker.broker.ranges import Range
from zmqbroker.commands import Receipt

__all__ = ["MUTANTS"]

#: Everything that channels with rules have, and faults now and then, so that messages return in all ways.
_RULED = MappingProxyType(
    {
        "ruled": 1.0,
        "treated": 0.5,
        "settled": 0.4,
        "channels": 2,
        "consumers": 3,
        "chaos_ns": 3_000_000_000,
        "fault_interval_ns": 300_000_000,
        "faults": ("kill", "partition", "consumer_crash", "transfer"),
    }
)


def forget_count_on_return(patch: pytest.MonkeyPatch) -> None:
    """A message that returns counts as never delivered."""
    put_back = Queue.put_back

    def put(queue: Queue, parts: Iterable[Range[int]], due_unix_ns: int = 0) -> None:
        put_back(queue, [part._replace(value=0) for part in parts], due_unix_ns)

    patch.setattr(Queue, "put_back", put)


def forget_delay_on_restore(patch: pytest.MonkeyPatch) -> None:
    """A state that is read from the store has its delayed messages ready."""

    def ready(queue: Queue, first: int, values: list[Any]) -> None:
        last, _, deliveries, *_ = values
        queue.make_ready(first, last, deliveries)

    patch.setitem(parts.READERS, parts.DELAYED, ready)


def drop_dead_letters(patch: pytest.MonkeyPatch) -> None:
    """A message that leaves for another channel does not get there."""
    move = moving.move

    def moved(source: Queue, taken: Iterable[Range[int]], target: Queue, reason: str, *rest: Any, **how: Any) -> int:
        if source is target:
            return move(source, taken, target, reason, *rest, **how)
        return source.finish(taken)

    for module in (moving, settling):
        patch.setattr(module, "move", moved)


def one_delivery_more(patch: pytest.MonkeyPatch) -> None:
    """A message is delivered once more than its limit allows."""
    split = settling._split_spent

    def later(queue: Queue, parts: Iterable[Range[int]], now_unix_ns: int) -> tuple[list[Range[int]], list[Range[int]]]:
        settings = queue.settings
        queue.settings = replace(settings, delivery_limit=settings.delivery_limit and settings.delivery_limit + 1)
        try:
            return split(queue, parts, now_unix_ns)
        finally:
            queue.settings = settings

    patch.setattr(settling, "_split_spent", later)


def ready_early(patch: pytest.MonkeyPatch) -> None:
    """A delay ends 50 ms before its time."""
    delay = Queue.delay
    patch.setattr(
        Queue,
        "delay",
        lambda queue, first, last, later: delay(queue, first, last, Later(later.due_unix_ns - 50_000_000, later.deliveries)),
    )


def settle_for_anybody(patch: pytest.MonkeyPatch) -> None:
    """A receipt is good as long as somebody holds its messages."""

    def is_held(queue: Queue, session: bytes, receipt: Receipt) -> bool:
        inside = 1 <= receipt.first <= receipt.last < queue.next_sequence
        waits = queue.ready.overlaps(receipt.first, receipt.last) or queue.delayed.overlaps(receipt.first, receipt.last)
        return inside and not waits

    patch.setattr(Queue, "is_held", is_held)


def keep_expired(patch: pytest.MonkeyPatch) -> None:
    """A message whose time is over while somebody holds it returns."""
    patch.setattr(Queue, "unexpired", lambda queue, parts, now_unix_ns: iter(list(parts)))


def _mutant(id: str, breaks: str, apply: Any, *caught_by: str) -> Mutant:
    return Mutant(id=id, breaks=breaks, apply=apply, caught_by=frozenset(caught_by), options=_RULED, seeds=6)


MUTANTS = (
    _mutant("Q1", "a message that returns counts as never delivered", forget_count_on_return, "I25"),
    _mutant("Q2", "delays are forgotten on restore", forget_delay_on_restore, "I14"),
    _mutant("Q3", "a message that leaves for another channel is dropped", drop_dead_letters, "I16"),
    _mutant("Q4", "a message is delivered once more than its limit", one_delivery_more, "I16", "I25"),
    _mutant("Q5", "a delay ends early", ready_early, "I26"),
    _mutant("Q6", "whoever names held messages settles them", settle_for_anybody, "I16"),
    _mutant("Q7", "a message that expired while it was held returns", keep_expired, "I16", "I17"),
)
