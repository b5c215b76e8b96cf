"""Storing one message, or one batch, in several channels: all of them, or none.

A repeat stores nothing where it is stored already: each channel knows that by itself, from the producer's number. So a repeat
after a route has changed brings the message to the new destinations only. Source: docs/PROTOCOL.md §3, "Destinations".
"""

from __future__ import annotations

from collections.abc import Sequence

from zmqbroker.broker.atomic import refused_batch, refused_channel, store_all, totals_of
from zmqbroker.broker.channels import Channels
from zmqbroker.broker.moving import Served
from zmqbroker.broker.publishing import contradiction, mismatch, stored
from zmqbroker.broker.records import Moment
from zmqbroker.commands import BatchHeader, Delivery, Publish, PublishAll, Published, PublishedAll, Result
from zmqbroker.errors import InvalidRequest, RequestError, UnknownProducer

__all__ = ["publish_all", "stored_all"]


def publish_all(channels: Channels, command: PublishAll, moment: Moment, deliveries: list[Delivery]) -> Result:
    """Store what is not stored yet, or say of each batch why not; what others get by it is added to `deliveries`.

    Where nothing is stored, and a channel does not know the producer, that is all there is to say: a `RequestError`.
    """
    results: list[Published | RequestError | None] = [_stored(channels, batch.header) for batch in command.batches]
    fresh = [batch for batch, result in zip(command.batches, results, strict=True) if result is None]
    if len({batch.header.channel for batch in command.batches}) < len(command.batches):
        return InvalidRequest("two batches are for one channel, which takes a message once")
    outcome = _outcome(channels, fresh, moment, deliveries)
    unknown = next((one for one in outcome if isinstance(one, UnknownProducer)), None)
    if unknown is not None and len(fresh) == len(results):
        return unknown
    told = iter(outcome)
    channel_names = (batch.header.channel for batch in command.batches)
    complete = (next(told) if result is None else result for result in results)
    return PublishedAll(tuple(zip(channel_names, complete, strict=True)))


def stored_all(channels: Channels, headers: Sequence[BatchHeader]) -> PublishedAll | None:
    """What `publish_all` answers to a repeat of which everything is stored, and None for any other. Changes nothing."""
    found = [(header.channel, _stored(channels, header)) for header in headers]
    told = tuple((name, published) for name, published in found if published is not None)
    return PublishedAll(told) if len(told) == len(found) else None


def _stored(channels: Channels, header: BatchHeader) -> Published | None:
    queue = channels.named(header.channel)
    return stored(queue, header) if queue is not None and header.producer else None


def _outcome(
    channels: Channels, batches: Sequence[Publish], moment: Moment, deliveries: list[Delivery]
) -> Sequence[Published | RequestError]:
    """Of each of these batches, none of which is stored: all are stored now, or each says why not."""
    refusals = [_refusal(channels, batch) for batch in batches]
    first = next(((batch.header.channel, error) for batch, error in zip(batches, refusals, strict=True) if error), None)
    if first is None and (full := refused_channel(channels, totals_of(batches))) is not None:
        return [full] * len(batches)  # each has room by itself, and there cannot be so many channels
    if first is not None:
        return [_as_well(*first) if error is None else error for error in refusals]
    served = Served()
    published = store_all(channels, batches, totals_of(batches), moment, served)
    deliveries += served.deliver(moment)
    return published


def _refusal(channels: Channels, batch: Publish) -> RequestError | None:
    """Why a channel would refuse a batch by itself."""
    queue, expected = channels.named(batch.header.channel), batch.expected_sequence
    last_sequence = 0 if queue is None else queue.next_sequence - 1
    if expected is not None and expected != last_sequence:
        return contradiction(batch) or refused_batch(channels, (batch,)) or mismatch(batch, last_sequence)
    return contradiction(batch) or refused_batch(channels, (batch,)) or refused_channel(channels, totals_of((batch,)))


def _as_well(channel: str, error: RequestError) -> RequestError:
    """What a channel says that would have taken its batch, where another one does not."""
    text = f"not stored, since channel {channel!r} refuses it and all are stored or none: {error.message}"
    return type(error)(text, **error.fields)
