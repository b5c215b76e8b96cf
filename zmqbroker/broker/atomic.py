"""Storing batches in several channels at once: everything that could refuse one is asked before anything changes.

`handing` acks messages in the same step, `routing` does not. What is bound to a channel takes what that has taken, and is never
asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from zmqbroker.broker.channels import Channels, unsendable
from zmqbroker.broker.feeding import feed
from zmqbroker.broker.managing import lacks_room, make_room, never_fits, overflows, too_full
from zmqbroker.broker.moving import Served
from zmqbroker.broker.publishing import store
from zmqbroker.broker.queue import Queue
from zmqbroker.broker.records import Moment
from zmqbroker.commands import ANY_INCARNATION, Publish, Published, is_consumer
from zmqbroker.errors import Duplicate, RequestError, UnknownProducer

__all__ = ["Totals", "refused_batch", "refused_channel", "store_all", "totals_of"]

#: Of the batches for each channel together: messages, bytes.
Totals = dict[str, tuple[int, int]]


def totals_of(batches: Iterable[Publish]) -> Totals:
    """Messages and bytes for each channel."""
    totals: Totals = {}
    for batch in batches:
        count, size = totals.get(batch.header.channel, (0, 0))
        totals[batch.header.channel] = count + batch.header.count, size + batch.size
    return totals


def refused_batch(channels: Channels, batches: Iterable[Publish]) -> RequestError | None:
    """What the producer of a batch says against it, after the batches before it; one that is stored is refused, too."""
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


def refused_channel(channels: Channels, totals: Totals, source: Queue | None = None, freed: int = 0) -> RequestError | None:
    """What the bounds of the channels say against batches, and that of their number.

    Of `source`, if that is given, `freed` messages leave first that are in flight there.
    """
    made: set[str] = set()
    for name, (count, size) in totals.items():
        if is_consumer(name):
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


def store_all(
    channels: Channels, batches: Sequence[Publish], totals: Totals, moment: Moment, served: Served
) -> list[Published]:
    """Store batches that nothing refuses; the result of each. Nobody is served."""
    targets: dict[str, Queue] = {}
    for name in totals:
        target = channels.find_or_create(name, ANY_INCARNATION, moment)
        assert isinstance(target, Queue), "it was asked before whether there is room for another channel"
        targets[name] = target
        served.add(target)
    stored: dict[int, Published] = {}  # by place of the batch
    # Dead letters of one channel may go to another one of these, and no bound keeps them out: what needs no room comes first.
    for name in sorted(totals, key=lambda name: overflows(targets[name], *totals[name], 0)):
        full = make_room(channels, targets[name], *totals[name], moment, served)
        assert full is None, "it was asked before whether there is room"
        for place, batch in enumerate(batches):
            if batch.header.channel == name:
                stored[place] = _store(targets[name], batch, moment)
    for place, batch in enumerate(batches):  # room that was asked for is not given to others before
        feed(channels, batch, stored[place], moment, moment, served)
    return [stored[place] for place in range(len(batches))]


def _store(target: Queue, batch: Publish, moment: Moment) -> Published:
    if batch.header.producer:
        answer = target.producers.check(batch.header)
        assert answer is None, "the producer was asked before"
    return store(target, batch, moment)
