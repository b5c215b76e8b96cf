"""What is done with whole channels (create, change, delete, purge) and with messages that nobody holds (delete, redrive)."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from zmqbroker.broker.channels import Channels
from zmqbroker.broker.moving import OVERFLOW, REDRIVEN, Served, dead_letter, move
from zmqbroker.broker.queue import Queue
from zmqbroker.broker.ranges import Range
from zmqbroker.broker.records import Moment
from zmqbroker.commands import (
    ANY_INCARNATION,
    ChannelChanged,
    ChannelSettings,
    Counted,
    CreateChannel,
    DeleteMessages,
    Delivery,
    Manage,
    Publish,
    Purge,
    Redrive,
    Result,
    UpdateChannel,
)
from zmqbroker.errors import ChannelExists, ChannelFull, ChannelNotFound, InvalidRequest, RequestError

__all__ = ["make_room", "manage"]


def manage(channels: Channels, command: Manage, moment: Moment, deliveries: list[Delivery]) -> Result:
    """Apply one command; what others get by it is added to `deliveries`."""
    if isinstance(command, CreateChannel | UpdateChannel) and (text := command.settings.contradiction(command.channel)):
        return InvalidRequest(text)
    if isinstance(command, CreateChannel):
        return _create(channels, command, moment)
    queue = channels.find(command.channel)
    if isinstance(queue, ChannelNotFound):
        return queue
    served = Served()
    result: Result
    match command:
        case Purge():
            result = Counted(_purge(queue, in_flight=command.in_flight))
        case DeleteMessages():
            result = Counted(_delete(queue, command.sequences))
        case Redrive():
            result = _redrive(channels, queue, command, moment, served)
        case UpdateChannel():
            result = ChannelChanged(queue.name, queue.settings != command.settings)
            queue.settings = command.settings
            served.add(queue)
        case _:
            deliveries += channels.remove(queue, moment)
            return ChannelChanged(queue.name, changed=True, deleted=True)
    deliveries += served.deliver(moment)
    return result


def _create(channels: Channels, command: CreateChannel, moment: Moment) -> Result:
    queue = channels.named(command.channel)
    if queue is None:
        made = channels.find_or_create(command.channel, ANY_INCARNATION, moment)
        if not isinstance(made, Queue):
            return made
        made.settings = command.settings
        return ChannelChanged(made.name, changed=True)
    differing = _differing(queue.settings, command.settings)
    if not differing:
        return ChannelChanged(queue.name, changed=False)
    text = ", ".join(f"{name} is {there!r} and not {wanted!r}" for name, (there, wanted) in differing.items())
    return ChannelExists(f"channel {queue.name!r} is there with other settings: {text}", differing=sorted(differing))


def _differing(there: ChannelSettings, wanted: ChannelSettings) -> dict[str, tuple[object, object]]:
    return {name: (value, getattr(wanted, name)) for name, value in asdict(there).items() if value != getattr(wanted, name)}


def _purge(queue: Queue, *, in_flight: bool) -> int:
    count = queue.finish(queue.take_waiting(1, queue.next_sequence))
    if in_flight:
        count += queue.finish(queue.let_go(1, queue.next_sequence))
    queue.counters.dropped += count
    return count


def _delete(queue: Queue, sequences: tuple[tuple[int, int], ...]) -> int:
    count = sum(queue.finish(queue.take_waiting(first, last)) for first, last in sequences if first <= last)
    queue.counters.dropped += count
    return count


def _redrive(channels: Channels, queue: Queue, command: Redrive, moment: Moment, served: Served) -> Result:
    """Oldest first. A message that came from nowhere stays, unless it is said where it is to go.

    It is through when so many were moved as were wanted, or when there are no more; otherwise the result says where to go on.
    """
    count, next_sequence, looked_at = 0, 0, channels.limits.redriven_max
    for number, batch in enumerate(queue.batches.starting(max(command.first, 1), looked_at + 1)):
        if command.count_max and count >= command.count_max:
            break
        if number == looked_at:
            next_sequence = batch.first
            break
        origin = batch.value.origin
        if command.origin and (origin is None or origin.channel != command.origin):
            continue
        to = command.to or (origin.channel if origin is not None else "")
        if to in ("", queue.name) or not (waiting := _waiting(queue, max(batch.first, command.first), batch.last)):
            continue
        target = channels.find_or_create(to, ANY_INCARNATION, moment)
        if isinstance(target, RequestError):
            if not count:
                return target
            next_sequence = batch.first
            break
        room = command.count_max - count if command.count_max else batch.last - batch.first + 1
        count += move(queue, _oldest(queue, waiting, room), target, REDRIVEN, served)
    queue.counters.moved += count
    return Counted(count, next_sequence)


def _waiting(queue: Queue, first: int, last: int) -> list[Range[int]]:
    """The messages of first .. last that nobody holds, ready or delayed, ascending."""
    ready = ((part.first, part.last) for part in queue.ready.overlapping(first, last))
    delayed = ((part.first, part.last) for part in queue.delayed.overlapping(first, last))
    return sorted(Range(max(low, first), min(high, last), 0) for low, high in (*ready, *delayed))


def _oldest(queue: Queue, waiting: list[Range[int]], count: int) -> list[Range[int]]:
    """Take up to `count` of messages that nobody holds."""
    taken: list[Range[int]] = []
    for part in waiting:
        if count > 0:
            taken += queue.take_waiting(part.first, min(part.last, part.first + count - 1))
            count -= part.last - part.first + 1
    return taken


def make_room(channels: Channels, queue: Queue, command: Publish, moment: Moment, served: Served) -> ChannelFull | None:
    """See that a batch fits the bounds of its channel: drop or dead-letter what is ready, oldest first, or refuse.

    What is in flight or delayed is never dropped. Where that leaves no room the batch is refused; nothing was dropped then,
    unless it takes so many bytes that nobody could tell before.
    """
    settings, count, size = queue.settings, command.header.count, command.size
    if not _exceeds(queue, count, size):
        return None
    kept = queue.depth - queue.ready.count
    if settings.overflow == "reject" or 0 < settings.max_messages < kept + count or 0 < settings.max_bytes < size:
        return _full(queue, count, size)
    while _exceeds(queue, count, size) and (oldest := next(iter(queue.ready), None)) is not None:
        batch = queue.batches.overlapping(oldest.first, oldest.first)[0]
        over = queue.depth + count - settings.max_messages if settings.max_messages else 0
        last = min(oldest.last, batch.last, oldest.first + over - 1 if over > 0 else batch.last)
        parts = queue.take_waiting(oldest.first, last)
        if settings.overflow == "drop_oldest":
            queue.counters.dropped += queue.finish(parts)
        elif not dead_letter(channels, queue, parts, OVERFLOW, moment, served):
            return _full(queue, count, size)
    return _full(queue, count, size) if _exceeds(queue, count, size) else None


def _full(queue: Queue, count: int, size: int) -> ChannelFull:
    settings = queue.settings
    text = (
        f"channel {queue.name!r} has {queue.depth} messages in {queue.size_bytes} bytes, and {count} more in {size} bytes "
        f"exceed its max_messages {settings.max_messages} or its max_bytes {settings.max_bytes} (0: none)"
    )
    bounds: dict[str, Any] = {"max_messages": settings.max_messages, "max_bytes": settings.max_bytes}
    return ChannelFull(text, depth=queue.depth, size_bytes=queue.size_bytes, **bounds)


def _exceeds(queue: Queue, count: int, size: int) -> bool:
    settings = queue.settings
    return 0 < settings.max_messages < queue.depth + count or 0 < settings.max_bytes < queue.size_bytes + size
