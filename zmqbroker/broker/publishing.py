"""Storing a batch in its channel: what may refuse it, in which order, and what it brings about."""

from __future__ import annotations

from dataclasses import replace

from zmqbroker.broker.channels import Channels
from zmqbroker.broker.dedup import Duplicates, fresh_records
from zmqbroker.broker.managing import make_room
from zmqbroker.broker.moving import Served
from zmqbroker.broker.queue import Queue
from zmqbroker.broker.records import BatchRecord, Moment, are_all_of, record_of, records_of
from zmqbroker.commands import (
    BatchHeader,
    ChannelSettings,
    Delivery,
    OpenProducer,
    ProducerOpened,
    Publish,
    Published,
    Result,
    is_store,
)
from zmqbroker.errors import InvalidRequest, SequenceMismatch

__all__ = [
    "append",
    "contradiction",
    "duplicates_of",
    "mismatch",
    "open_producer",
    "publish",
    "records_for",
    "store",
    "stored",
]


def publish(
    channels: Channels, command: Publish, moment: Moment, deliveries: list[Delivery], frame: Moment | None = None
) -> Result:
    """Store a batch, or say why not; what others get by it is added to `deliveries`.

    `frame` names the entry with the batch's frame, when it is not this one.
    """
    header, expected = command.header, command.expected_sequence
    if (header.count < 1 or command.runs or command.ids) and (refusal := contradiction(command)):
        return refusal
    if expected and not header.producer and channels.named(header.channel) is None:
        return mismatch(command, 0)  # it makes no channel; a producer is told that it is not known there, as ever
    queue = channels.find_or_create(header.channel, command.incarnation, moment)
    if not isinstance(queue, Queue):
        return queue
    if header.producer:
        answer = queue.producers.check(header)
        if answer is not None:
            return _told(queue, answer) if isinstance(answer, Published) else answer
    if expected is not None and expected != queue.next_sequence - 1:
        return mismatch(command, queue.next_sequence - 1)
    others, settings = None, queue.settings
    duplicates = duplicates_of(queue, command)
    records = records_for(command, settings, frame or moment, duplicates)
    if records and (settings.max_messages or settings.max_bytes):
        others = Served()
        count, size = sum(record.live for record, _ in records), sum(record.share_bytes for record, _ in records)
        full = make_room(channels, queue, count, size, moment, others)
        if full is not None:
            deliveries += others.deliver(moment)  # what made room, and not enough, may be waited for elsewhere
            return full
    first = append(queue, command, records, duplicates, moment)
    deliveries += queue.serve(moment)
    if others is not None:  # got what made room
        deliveries += others.deliver(moment)
    return Published(first, header.count, False, moment.now_unix_ns, duplicates)


def store(queue: Queue, command: Publish, moment: Moment) -> Published:
    """Store a batch that nothing refuses. Nobody is served."""
    duplicates = duplicates_of(queue, command)
    first = append(queue, command, records_for(command, queue.settings, moment, duplicates), duplicates, moment)
    return Published(first, command.header.count, False, moment.now_unix_ns, duplicates)


def duplicates_of(queue: Queue, command: Publish) -> Duplicates:
    """The messages of a batch whose ids its channel knows, if it is to look at them."""
    seeing = queue.settings.dedup_window_ms and command.ids
    return queue.seen.duplicates(command.ids, queue.next_sequence) if seeing else ()


def append(
    queue: Queue, command: Publish, records: list[tuple[BatchRecord, int]], duplicates: Duplicates, moment: Moment
) -> int:
    """Store the records of a batch, and what is to be known of it; the sequence of its first message."""
    header = command.header
    first = queue.publish(records, header.count)
    if queue.settings.dedup_window_ms and command.ids:
        queue.note_ids(command, first, duplicates, moment)
    if header.producer:
        queue.producers.record(header, first, moment.now_unix_ns)
    return first


def contradiction(command: Publish) -> InvalidRequest | None:
    """Why no channel takes such a batch."""
    header = command.header
    if header.count < 1:
        return InvalidRequest(f"a batch has at least 1 message, this one {header.count}")
    if command.runs and not are_all_of(command.runs, header.count):
        return InvalidRequest(f"the columns do not say something of each of the batch's {header.count} messages once")
    if is_store(header.channel) and (delay_ms := max((run.delay_ms for run in command.runs), default=0)):
        text = f"an event of store {header.channel!r} has delay_ms {delay_ms}, and stores have none: make a schedule"
        return InvalidRequest(text)
    if command.ids and len(command.ids) != header.count:
        return InvalidRequest(f"the ids are not those of the batch's {header.count} messages, they are {len(command.ids)}")
    return None


def mismatch(command: Publish, last_sequence: int) -> SequenceMismatch:
    """The refusal of a batch for a channel with another last sequence."""
    expected = command.expected_sequence
    text = f"the last sequence of channel {command.header.channel!r} is {last_sequence} and not {expected}"
    return SequenceMismatch(text, expected=expected, last_sequence=last_sequence)


def records_for(
    command: Publish, settings: ChannelSettings, moment: Moment, duplicates: Duplicates
) -> list[tuple[BatchRecord, int]]:
    """What is to be stored of a batch, each record with the instant at which it is ready."""
    if not (duplicates or command.runs or settings.delay_ms or settings.expiry_ms or settings.max_age_ms):  # as a rule
        return [(record_of(command, moment), 0)]
    records = records_of(command, settings, moment)
    return list(fresh_records(records, duplicates) if duplicates else records)


def stored(queue: Queue, header: BatchHeader) -> Published | None:
    """What `publish` answers to a repeat whose result is kept, and None for any other batch. Changes nothing."""
    found = queue.producers.stored(header)
    return None if found is None else _told(queue, found)


def _told(queue: Queue, published: Published) -> Published:
    """The result of a batch that was stored before, with its duplicates as long as they are kept."""
    seen = queue.seen.get(published.first_sequence)
    return replace(published, duplicates=seen.duplicates) if seen is not None and seen.duplicates else published


def open_producer(channels: Channels, command: OpenProducer, moment: Moment) -> Result:
    """Make a producer known; a repeat changes nothing."""
    if command.producer < 1:
        return InvalidRequest(f"a producer is a number from 1, not {command.producer}")
    queue = channels.find_or_create(command.channel, command.incarnation, moment)
    return ProducerOpened(queue.producers.open(command.producer)) if isinstance(queue, Queue) else queue
