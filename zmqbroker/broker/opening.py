"""Opening the durable consumers of events stores, and setting their positions anew."""

from __future__ import annotations

from zmqbroker.broker.channels import Channels
from zmqbroker.broker.moving import Served
from zmqbroker.broker.records import Moment
from zmqbroker.broker.settling import give_back
from zmqbroker.broker.store import EventsStore
from zmqbroker.broker.store_consumer import SHARED, Owner, StoreConsumer
from zmqbroker.commands import (
    ANY_INCARNATION,
    STARTS,
    ConsumerOpened,
    Delivery,
    OpenConsumer,
    ResetConsumer,
    Result,
    is_store,
    settings_said,
)
from zmqbroker.errors import InvalidRequest, PositionGone, RequestError

__all__ = ["open_consumer", "reset_consumer", "start_of"]


def open_consumer(channels: Channels, command: OpenConsumer, moment: Moment, deliveries: list[Delivery]) -> Result:
    """Make a consumer, or go on with it; what others get by that is added to `deliveries`."""
    if fault := _fault(command):
        return fault
    there = channels.named(command.channel)
    consumer = _make(channels, command, moment) if there is None else channels.touch(there.number)
    if isinstance(consumer, RequestError):
        return consumer
    assert isinstance(consumer, StoreConsumer)
    owner = Owner(command.session, command.number) if command.exclusive else SHARED
    if owner != SHARED:
        _take_over(channels, consumer, owner, moment, deliveries)
    else:
        consumer.own(owner)
    return _opened(consumer, created=there is None)


def reset_consumer(channels: Channels, command: ResetConsumer, moment: Moment, deliveries: list[Delivery]) -> Result:
    """Set the position of a consumer anew: what it has taken is forgotten, whoever holds it."""
    if fault := _fault(command):
        return fault
    consumer = channels.find(command.channel)
    if isinstance(consumer, RequestError):
        return consumer
    assert isinstance(consumer, StoreConsumer)
    sequence = start_of(consumer.store, command.start, command.value, moment.now_unix_ns)
    if isinstance(sequence, RequestError):
        return sequence
    consumer.go_to(sequence)
    deliveries += consumer.serve(moment)
    return _opened(consumer, created=False)


def start_of(store: EventsStore, start: str, value: int, now_unix_ns: int) -> int | PositionGone:
    """The sequence that one of `STARTS` means now; that of the next event where there is none, and any above for "sequence"."""
    first = store.first_sequence
    match start:
        case "sequence" if value < first:
            return PositionGone(
                f"sequence {value} of {store.name!r} is not kept, the first one that is is {first}", first=first
            )
        case "sequence":
            return value
        case "first":
            return first
        case "last":
            return store.newest() or store.next_sequence
        case "time":
            return store.since(value)
        case "time_delta_ms":
            return store.since(max(now_unix_ns - value * 1_000_000, 0))
        case _:
            return store.next_sequence


def _fault(command: OpenConsumer | ResetConsumer) -> InvalidRequest | None:
    """What is wrong with the command, whatever there is."""
    if not is_store(command.store):
        return InvalidRequest(f"{command.channel!r} does not name a consumer of an events store")
    if command.start not in STARTS or (command.start == "sequence" and command.value < 1):
        return InvalidRequest(f"start is {command.start!r} with the value {command.value}, which is no place in a store")
    text = command.settings.contradiction(command.channel) if isinstance(command, OpenConsumer) else None
    return None if text is None else InvalidRequest(text)


def _make(channels: Channels, command: OpenConsumer, moment: Moment) -> StoreConsumer | RequestError:
    """A consumer at its start; the store is made where its use is to make it."""
    missing = channels.named(command.store) is None
    if missing and (refusal := channels.unusable(command.store)):
        return refusal
    if full := channels.refusal(1 + missing):
        return full
    store = channels.find_or_create(command.store, ANY_INCARNATION, moment)
    assert isinstance(store, EventsStore), "it was asked before whether it can be made"
    sequence = start_of(store, command.start, command.value, moment.now_unix_ns)
    if isinstance(sequence, RequestError):
        return sequence
    consumer = channels.create(command.channel, settings_said(command.settings, command.explicit), moment)
    assert isinstance(consumer, StoreConsumer), "it was asked before whether there is room"
    consumer.next_sequence = sequence
    return consumer


def _take_over(channels: Channels, consumer: StoreConsumer, owner: Owner, moment: Moment, deliveries: list[Delivery]) -> None:
    """Give a consumer to one reader: what others hold returns in its place, and they wait no more."""
    for waiter in [waiter for waiter in consumer.waiting if not owner.is_of(waiter.key)]:
        consumer.drop_waiter(waiter)
        deliveries.append(Delivery(waiter.key, consumer.name, ()))
    served = Served()
    for assignment in [held for held in consumer.assignments.values() if not owner.is_of(held.key)]:
        give_back(channels, assignment, moment, served)
    consumer.retire()
    consumer.own(owner)
    served.add(consumer)
    deliveries += served.deliver(moment)


def _opened(consumer: StoreConsumer, *, created: bool) -> ConsumerOpened:
    store = consumer.store
    return ConsumerOpened(consumer.position, created, store.first_sequence, store.last_sequence)
