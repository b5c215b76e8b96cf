"""Handing over: messages are acked and others are sent in one step, or neither is.

Everything that could refuse it is asked before anything changes. A message can be handed over once, since its receipt must be
held; so a repeat never sends again, whatever is remembered. That it gets the first answer is the business of the producers of
its batches: they know what they sent, and results of theirs are kept (docs/PROTOCOL.md §3 and §4).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from zmqbroker.broker.channels import Channels, unsendable
from zmqbroker.broker.managing import lacks_room, make_room, never_fits, overflows, too_full
from zmqbroker.broker.moving import Served
from zmqbroker.broker.publishing import contradiction, store
from zmqbroker.broker.queue import Queue
from zmqbroker.broker.records import Moment
from zmqbroker.broker.store_rules import unreceivable
from zmqbroker.commands import (
    ANY_INCARNATION,
    CONSUMER_MARK,
    BatchHeader,
    Delivery,
    HandedOver,
    HandOver,
    Publish,
    Published,
    Receipt,
    Result,
)
from zmqbroker.errors import ChannelNotFound, Duplicate, InvalidRequest, RequestError, UnknownProducer

__all__ = ["hand_over", "handed_over"]

#: Of the batches for each channel together: messages, bytes.
Totals = dict[str, tuple[int, int]]


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
    totals = _totals(command.batches)
    freed = sum(map(_count, command.receipts))
    refusal = (
        _fault(command)
        or _stale(queue, command)
        or _refused_batch(channels, command.batches)
        or _refused_channel(channels, queue, totals, freed)
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


def _refused_batch(channels: Channels, batches: Iterable[Publish]) -> RequestError | None:
    """What the producer of a batch says against it, after the batches before it."""
    ahead: dict[tuple[str, int], int] = {}
    for header in (batch.header for batch in batches if batch.header.producer):
        name = header.channel, header.producer
        target = channels.named(header.channel)
        if target is None:
            return UnknownProducer(f"producer {header.producer} is not open on channel {header.channel!r}")
        answer = target.producers.judge(header, ahead.get(name, 0))
        if isinstance(answer, Published):
            first, last = header.base_sequence, header.base_sequence + header.count - 1
            text = f"sequences {first} to {last} of producer {header.producer} are stored, and not by this hand-over"
            return Duplicate(text)
        if answer is not None:
            return answer
        ahead[name] = ahead.get(name, 0) + header.count
    return None


def _refused_channel(channels: Channels, source: Queue, totals: Totals, freed: int) -> RequestError | None:
    """What the bounds of the channels say against it, and that of their number."""
    made: set[str] = set()
    for name, (count, size) in totals.items():
        if CONSUMER_MARK in name:
            return unsendable(name)
        target = channels.named(name)
        if target is None:
            refusal = channels.unusable(name) or never_fits(name, channels.defaults.complete(name, {}), count, size)
            if refusal is not None:
                return refusal
            made.add(name)
            continue
        leaving = freed if target is source else 0
        full = lacks_room(target, count, size, leaving)
        if full is not None:
            return full
        settings = target.settings
        if settings.overflow == "dead_letter" and overflows(target, count, size, leaving):
            if channels.named(settings.dead_letter) is None and channels.unusable(settings.dead_letter):
                return too_full(target, count, size)
            made.add(settings.dead_letter)
    return channels.refusal(sum(channels.named(name) is None for name in made))


# --- doing it --------------------------------------------------------------------------------------------------------


def _carry_out(
    channels: Channels, source: Queue, command: HandOver, totals: Totals, moment: Moment, deliveries: list[Delivery]
) -> HandedOver:
    served = Served()
    channels.touch(source.number)
    served.add(source)
    count = sum(source.finish(source.let_go(receipt.first, receipt.last)) for receipt in command.receipts)
    source.counters.acked += count
    targets: dict[str, Queue] = {}
    for name in totals:
        target = channels.find_or_create(name, ANY_INCARNATION, moment)
        assert isinstance(target, Queue), "it was asked before whether there is room for another channel"
        targets[name] = target
        served.add(target)
    firsts: dict[int, int] = {}  # sequence of the first message, by place of the batch
    # Dead letters of one channel may go to another one of these, and no bound keeps them out: what needs no room comes first.
    for name in sorted(totals, key=lambda name: overflows(targets[name], *totals[name], 0)):
        full = make_room(channels, targets[name], *totals[name], moment, served)
        assert full is None, "it was asked before whether there is room"
        for place, batch in enumerate(command.batches):
            if batch.header.channel == name:
                firsts[place] = _store(targets[name], batch, moment)
    deliveries += served.deliver(moment)
    sent = tuple((batch.header.channel, firsts[place], batch.header.count) for place, batch in enumerate(command.batches))
    return HandedOver(count, sent, False, moment.now_unix_ns)


def _store(target: Queue, batch: Publish, moment: Moment) -> int:
    if batch.header.producer:
        answer = target.producers.check(batch.header)
        assert answer is None, "the producer was asked before"
    return store(target, batch, moment)


def _totals(batches: Iterable[Publish]) -> Totals:
    totals: Totals = {}
    for batch in batches:
        count, size = totals.get(batch.header.channel, (0, 0))
        totals[batch.header.channel] = count + batch.header.count, size + batch.size
    return totals


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
