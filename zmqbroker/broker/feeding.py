"""Storing what an events store takes in the queues that are bound to it, in the same entry and without a copy of a body.

Source: `bindings` for what a queue does that has no room; docs/PROTOCOL.md §3, SET_BINDING.
"""

from __future__ import annotations

from dataclasses import replace

from zmqbroker.broker.bindings import Binding
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
        feed(channels, command, result.first_sequence, moment, frame or moment, served)
        deliveries += served.deliver(moment)
    return result


def feed(channels: Channels, command: Publish, first: int, moment: Moment, frame: Moment, served: Served) -> None:
    """Store a batch that a channel has taken, from the sequence `first` on, in the queues that are bound to that.

    `frame` names the entry with its frame. Who waits there is served by the caller.
    """
    header = command.header
    if not len(channels.bindings) or not is_store(header.channel):
        return
    # Numbers of a producer are those of the store.
    command = replace(command, header=replace(header, producer=0, base_sequence=0))
    for name, binding in channels.bindings.fed(EVENTS_STORE, header.channel.removeprefix(STORE_PREFIX)).items():
        _feed_one(channels, name, binding, command, first, moment, frame, served)


def _feed_one(
    channels: Channels,
    name: str,
    binding: Binding,
    command: Publish,
    first: int,
    moment: Moment,
    frame: Moment,
    served: Served,
) -> None:
    queue = channels.find_or_create(name, ANY_INCARNATION, moment)
    if not isinstance(queue, Queue):
        channels.bindings.leave_out(binding, command.header.count)
        return
    if _take(channels, queue, command, first, moment, frame, served):
        return
    dead_letter = queue.settings.dead_letter
    target = channels.find_or_create(dead_letter, ANY_INCARNATION, moment) if dead_letter else None
    if isinstance(target, Queue):
        _take(channels, target, command, first, moment, frame, served, OVERFLOW)
    else:
        channels.bindings.leave_out(binding, command.header.count)


def _take(
    channels: Channels,
    queue: Queue,
    command: Publish,
    first: int,
    moment: Moment,
    frame: Moment,
    served: Served,
    reason: str = BOUND,
) -> bool:
    """Store the batch in a queue; False when that has no room, which is not asked of one for dead letters."""
    duplicates = duplicates_of(queue, command)
    records = records_for(command, queue.settings, frame, duplicates)
    count, size = sum(record.live for record, _ in records), sum(record.share_bytes for record, _ in records)
    if reason == BOUND and records and make_room(channels, queue, count, size, moment, served) is not None:
        return False
    for record, _ in records:
        record.origin = Origin(command.header.channel, first + record.low, 0, reason)
    append(queue, command, records, duplicates, moment)
    served.add(queue)
    return True
