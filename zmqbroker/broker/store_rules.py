"""What events stores and their consumers do not take, although they are channels: told by name before anything changes."""

from __future__ import annotations

from zmqbroker.broker.channels import Channels
from zmqbroker.broker.store_consumer import StoreConsumer
from zmqbroker.commands import (
    CONSUMER_MARK,
    STORE_PREFIX,
    CreateChannel,
    DeleteMessages,
    Manage,
    Purge,
    Redrive,
    UpdateChannel,
    is_consumer,
)
from zmqbroker.errors import ConsumerTaken, InvalidRequest, RequestError, Unsupported

__all__ = ["unmanageable", "unreceivable"]


def unreceivable(channels: Channels, name: str, session: bytes, consumer: int | None = None) -> RequestError | None:
    """Why a session may not receive from a channel (by one of its consumers), or settle what it received there."""
    if not name.startswith(STORE_PREFIX):  # as a rule
        return None
    if CONSUMER_MARK not in name:
        return Unsupported(f"channel {name!r} is an events store: read it, or receive from a consumer of it")
    queue = channels.named(name)
    if isinstance(queue, StoreConsumer) and not queue.is_open_to(session, consumer):
        return ConsumerTaken(f"consumer {name!r} is exclusive, and another reader has opened it")
    return None


def unmanageable(channels: Channels, command: Manage) -> RequestError | None:
    """Why a channel cannot be managed so."""
    name = command.channel
    if not name.startswith(STORE_PREFIX):  # as a rule
        return None
    if isinstance(command, Redrive):
        return Unsupported(f"channel {name!r} is of an events store, whose events stay where they are: redrive copies none")
    if is_consumer(name):
        if isinstance(command, CreateChannel):
            return Unsupported(f"channel {name!r} is a consumer of an events store: open it there")
        if isinstance(command, Purge | DeleteMessages):
            return Unsupported(f"channel {name!r} is a consumer of an events store: ack its events, or reset it")
    return _not_empty(channels, command) if isinstance(command, UpdateChannel) else None


def _not_empty(channels: Channels, command: UpdateChannel) -> InvalidRequest | None:
    """Why the newest event of every key cannot be all that is kept, from now on: finding it could take any time."""
    store = channels.named(command.channel)
    if store is None or store.settings.keep_latest or not (command.settings.keep_latest and store.ready.count):
        return None
    return InvalidRequest(
        f"setting keep_latest is made while a store is empty, and {store.name!r} has {store.ready.count} events: purge it first"
    )
