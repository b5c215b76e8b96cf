"""Storing what an events store takes in the queues that are bound to it, in the same entry and without a copy of a body.

Source: `bindings` for what a queue does that has no room; docs/PROTOCOL.md §3, SET_BINDING.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from zmqbroker.broker.channels import Channels
from zmqbroker.broker.managing import make_room
from zmqbroker.broker.moving import OVERFLOW, Served
from zmqbroker.broker.publishing import append, duplicates_of, publish, records_for
from zmqbroker.broker.queue import Queue
from zmqbroker.broker.records import Moment
from zmqbroker.commands import ANY_INCARNATION, EVENTS_STORE, Delivery, Origin, Publish, Published, Result, is_store
from zmqbroker.commands.names import STORE_PREFIX

__all__ = ["BOUND", "feed", "publish_and_feed"]

#: Why a message is in a queue that was published to a store.
BOUND = "binding"


def publish_and_feed(
    channels: Channels, command: Publish, moment: Moment, deliveries: list[Delivery], frame: Moment | None = None
) -> Result:
    """As `publish`; what is stored is in the queues that are bound to its channel, too."""
    result = publish(channels, command, moment, deliveries, frame)
    if len(channels.bindings) and isinstance(result, Published) and not result.duplicate:
        served = Served()
        feed(channels, command, result, moment, frame or moment, served)
        deliveries += served.deliver(moment)
    return result


def feed(channels: Channels, command: Publish, published: Published, moment: Moment, frame: Moment, served: Served) -> None:
    """Store a batch that a channel has taken in the queues that are bound to that, without what was a duplicate there.

    `frame` names the entry with its frame. Who waits in the queues is served by the caller.
    """
    header = command.header
    if not len(channels.bindings) or not is_store(header.channel):
        return
    # Numbers of a producer are those of the store.
    command = replace(command, header=replace(header, producer=0, base_sequence=0))
    fed = _Fed(command, published, moment, frame, served)
    for name, binding in channels.bindings.fed(EVENTS_STORE, header.channel.removeprefix(STORE_PREFIX)).items():
        if fed.count and not _feed_one(channels, name, fed):
            channels.bindings.leave_out(binding, fed.count)


@dataclass(slots=True, frozen=True)
class _Fed:
    """A batch that an events store has taken, on its way to queues."""

    command: Publish
    published: Published
    moment: Moment
    frame: Moment
    served: Served

    @property
    def count(self) -> int:
        """Messages of it that the store has stored."""
        return self.published.count - len(self.published.duplicates)


def _feed_one(channels: Channels, name: str, fed: _Fed) -> bool:
    """Whether a queue takes the batch, or a channel for its dead letters that is not where the batch is from."""
    queue = channels.find_or_create(name, ANY_INCARNATION, fed.moment)
    if not isinstance(queue, Queue):
        return False
    if _take(channels, queue, fed, Origin(fed.command.header.channel, fed.published.first_sequence, 0, BOUND)):
        return True
    dead_letter = queue.settings.dead_letter
    if dead_letter in ("", fed.command.header.channel):  # the store has it, and would have it twice
        return False
    target = channels.find_or_create(dead_letter, ANY_INCARNATION, fed.moment)
    # As if it had been there, so that a redrive brings it where it belongs.
    return isinstance(target, Queue) and _take(channels, target, fed, Origin(name, queue.next_sequence, 0, OVERFLOW))


def _take(channels: Channels, queue: Queue, fed: _Fed, origin: Origin) -> bool:
    """Store the batch in a queue; False when that has no room, which is not asked of one for dead letters.

    `origin` is that of the first message.
    """
    command, moment = fed.command, fed.moment
    duplicates = tuple(sorted({**dict(duplicates_of(queue, command)), **dict(fed.published.duplicates)}.items()))
    records = records_for(command, queue.settings, fed.frame, duplicates)
    count, size = sum(record.live for record, _ in records), sum(record.share_bytes for record, _ in records)
    if origin.reason == BOUND and records and make_room(channels, queue, count, size, moment, fed.served) is not None:
        return False
    for record, _ in records:
        record.origin = replace(origin, sequence=origin.sequence + record.low)
    append(queue, command, records, duplicates, moment)
    if not queue.settings.dedup_window_ms:  # else it has counted them
        queue.counters.deduplicated += len(duplicates)
    fed.served.add(queue)
    return True
