"""Storing a batch in its channel: what may refuse it, in which order, and what it brings about."""

from __future__ import annotations

from zmqbroker.broker.channels import Channels
from zmqbroker.broker.managing import make_room
from zmqbroker.broker.moving import Served
from zmqbroker.broker.queue import Queue
from zmqbroker.broker.records import Moment, are_all_of
from zmqbroker.commands import Delivery, OpenProducer, ProducerOpened, Publish, Published, Result
from zmqbroker.errors import InvalidRequest

__all__ = ["open_producer", "publish"]


def publish(
    channels: Channels, command: Publish, moment: Moment, deliveries: list[Delivery], frame: Moment | None = None
) -> Result:
    """Store a batch, or say why not; what others get by it is added to `deliveries`.

    `frame` names the entry with the batch's frame, when it is not this one.
    """
    header = command.header
    if header.count < 1:
        return InvalidRequest(f"a batch has at least 1 message, this one {header.count}")
    if command.runs and not are_all_of(command.runs, header.count):
        return InvalidRequest(f"the columns do not say something of each of the batch's {header.count} messages once")
    queue = channels.find_or_create(header.channel, command.incarnation, moment)
    if not isinstance(queue, Queue):
        return queue
    if header.producer:
        answer = queue.producers.check(header)
        if answer is not None:
            return answer
    others, settings = None, queue.settings
    if settings.max_messages or settings.max_bytes:
        others = Served()
        full = make_room(channels, queue, command, moment, others)
        if full is not None:
            return full
    first = queue.publish(command, frame or moment)
    if header.producer:
        queue.producers.record(header, first, moment.now_unix_ns)
    deliveries += queue.serve(moment)
    if others is not None:  # got what made room
        deliveries += others.deliver(moment)
    return Published(first, header.count, False, moment.now_unix_ns)


def open_producer(channels: Channels, command: OpenProducer, moment: Moment) -> Result:
    """Make a producer known; a repeat changes nothing."""
    if command.producer < 1:
        return InvalidRequest(f"a producer is a number from 1, not {command.producer}")
    queue = channels.find_or_create(command.channel, command.incarnation, moment)
    return ProducerOpened(queue.producers.open(command.producer)) if isinstance(queue, Queue) else queue
