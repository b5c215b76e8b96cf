"""Handing over: messages are acked and others are sent in one step, or neither is.

Everything that could refuse it is asked before anything changes. A message can be handed over once, since its receipt must be
held; so a repeat never sends again, whatever is remembered. That it gets the first answer is the business of the producers of
its batches: they know what they sent, and results of theirs are kept (docs/PROTOCOL.md §3 and §4).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from zmqbroker.broker.atomic import Totals, refused_batch, refused_channel, store_all, totals_of
from zmqbroker.broker.channels import Channels
from zmqbroker.broker.moving import Served
from zmqbroker.broker.publishing import contradiction
from zmqbroker.broker.queue import Queue
from zmqbroker.broker.records import Moment
from zmqbroker.broker.store_rules import unreceivable
from zmqbroker.commands import (
    BatchHeader,
    Delivery,
    HandedOver,
    HandOver,
    Receipt,
    Result,
)
from zmqbroker.errors import ChannelNotFound, InvalidRequest, RequestError

__all__ = ["hand_over", "handed_over"]


def hand_over(channels: Channels, command: HandOver, moment: Moment, deliveries: list[Delivery]) -> Result:
    """Ack and store, or say why not; what others get by it is added to `deliveries`."""
    repeated = handed_over(channels, command.channel, command.receipts, [batch.header for batch in command.batches])
    if repeated is not None:
        return repeated
    if refusal := unreceivable(channels, command.channel, command.session):
        return refusal
    queue = channels.named(command.channel)
    if queue is None:
        return ChannelNotFound(f"no channel is called {command.channel!r}")
    totals = totals_of(command.batches)
    freed = sum(map(_count, command.receipts))
    refusal = (
        _fault(command)
        or _stale(queue, command)
        or refused_batch(channels, command.batches)
        or refused_channel(channels, totals, queue, freed)
    )
    return refusal or _carry_out(channels, queue, command, totals, moment, deliveries)


def handed_over(
    channels: Channels, channel: str, receipts: Iterable[Receipt], headers: Sequence[BatchHeader]
) -> HandedOver | None:
    """The result of an earlier attempt, if it is kept: all batches are stored, and all messages finished. Changes nothing."""
    queue, count, stored = channels.named(channel), 0, []
    for header in headers:
        target = channels.named(header.channel)
        published = target.producers.stored(header) if target is not None else None
        if published is None:
            return None
        stored.append((header.channel, published))
    for receipt in receipts:
        if queue is None or not _is_finished(queue, receipt):
            return None
        count += _count(receipt)
    sent = tuple((name, published.first_sequence, published.count) for name, published in stored)
    return HandedOver(count, sent, True, stored[0][1].time_unix_ns) if stored else None


# --- what may refuse it ----------------------------------------------------------------------------------------------


def _fault(command: HandOver) -> InvalidRequest | None:
    """What cannot be, whatever there is."""
    headers = [batch.header for batch in command.batches]
    if not headers or not command.receipts:
        return InvalidRequest(f"a hand-over has receipts and batches, this one {len(command.receipts)} and {len(headers)}")
    for batch in command.batches:
        if (fault := contradiction(batch)) is not None:
            return fault
    spans = sorted((receipt.first, receipt.last) for receipt in command.receipts if receipt.first <= receipt.last)
    for (_, last), (first, _) in pairwise(spans):
        if first <= last:
            return InvalidRequest(f"receipts of a hand-over name message {first} twice")
    return None


def _stale(queue: Queue, command: HandOver) -> RequestError | None:
    """Every message must be in flight, and not finished: else others could have been sent for it already."""
    stale = [
        [receipt.assigning, receipt.first, receipt.last]
        for receipt in command.receipts
        if not _is_in_flight(queue, command.session, receipt)
    ]
    return queue.stale_receipts(stale, len(command.receipts), 0) if stale else None


# --- doing it --------------------------------------------------------------------------------------------------------


def _carry_out(
    channels: Channels, source: Queue, command: HandOver, totals: Totals, moment: Moment, deliveries: list[Delivery]
) -> HandedOver:
    served = Served()
    channels.touch(source.number)
    served.add(source)
    count = sum(source.finish(source.let_go(receipt.first, receipt.last)) for receipt in command.receipts)
    source.counters.acked += count
    stored = store_all(channels, command.batches, totals, moment, served)
    deliveries += served.deliver(moment)
    pairs = zip(command.batches, stored, strict=True)
    sent = tuple((batch.header.channel, published.first_sequence, published.count) for batch, published in pairs)
    return HandedOver(count, sent, False, moment.now_unix_ns)


def _count(receipt: Receipt) -> int:
    return receipt.last - receipt.first + 1


def _is_in_flight(queue: Queue, session: bytes, receipt: Receipt) -> bool:
    """True when every message of the receipt is in flight under it."""
    return queue.is_held(session, receipt) and _held_count(queue, receipt) == _count(receipt)


def _is_finished(queue: Queue, receipt: Receipt) -> bool:
    """True when every message of the receipt was there, and is no more."""
    first, last = receipt.first, receipt.last
    if not 1 <= first <= last < queue.next_sequence or queue.ready.overlaps(first, last):
        return False
    return not any(kind.overlaps(first, last) for kind in (queue.delayed, queue.groups.parked, queue.in_flight))


def _held_count(queue: Queue, receipt: Receipt) -> int:
    parts = queue.in_flight.overlapping(receipt.first, receipt.last)
    return sum(min(part.last, receipt.last) - max(part.first, receipt.first) + 1 for part in parts)
