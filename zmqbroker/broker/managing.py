"""What is done with whole channels (create, change, delete, purge) and with messages that nobody holds (delete, redrive)."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from zmqbroker.broker.channels import Channels
from zmqbroker.broker.moving import OVERFLOW, REDRIVEN, Served, dead_letter, move
from zmqbroker.broker.queue import Queue
from zmqbroker.broker.ranges import RangeMap
from zmqbroker.broker.records import Moment
from zmqbroker.broker.store_rules import unmanageable
from zmqbroker.commands import (
    ANY_INCARNATION,
    STORE_PREFIX,
    ChannelChanged,
    ChannelSettings,
    Counted,
    CreateChannel,
    DeleteMessages,
    Delivery,
    Manage,
    Purge,
    Redrive,
    Result,
    Said,
    UpdateChannel,
    completed,
    settings_said,
)
from zmqbroker.errors import ChannelExists, ChannelFull, ChannelNotFound, InvalidRequest, RequestError

__all__ = ["lacks_room", "make_room", "manage", "never_fits", "overflows", "too_full"]


def manage(channels: Channels, command: Manage, moment: Moment, deliveries: list[Delivery]) -> Result:
    """Apply one command; what others get by it is added to `deliveries`."""
    if isinstance(command, CreateChannel | UpdateChannel) and (text := command.settings.contradiction(command.channel)):
        return InvalidRequest(text)
    if refusal := unmanageable(channels, command):
        return refusal
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
            served.add(queue)  # the next of a group whose current message was delayed is ready
        case Redrive():
            result = _redrive(channels, queue, command, moment, served)
        case UpdateChannel():
            settings = completed(queue.name, settings_said(command.settings, command.explicit), ())
            result = ChannelChanged(queue.name, queue.settings != settings)
            queue.change_settings(settings)
            queue.forget_ids(moment.now_unix_ns)
            served.add(queue)
        case _:
            deliveries += channels.remove(queue)
            return ChannelChanged(queue.name, changed=True, deleted=True)
    deliveries += served.deliver(moment)
    return result


def _create(channels: Channels, command: CreateChannel, moment: Moment) -> Result:
    queue, said = channels.named(command.channel), settings_said(command.settings, command.explicit)
    if queue is None:
        made = channels.create(command.channel, said, moment)
        return ChannelChanged(made.name, changed=True) if isinstance(made, Queue) else made
    usual = {
        name: value
        for name, value in asdict(completed(queue.name, {}, ())).items()
        if name not in channels.defaults.names(queue.name)
    }
    differing = _differing(queue.settings, {**usual, **said})
    if not differing:
        return ChannelChanged(queue.name, changed=False)
    text = ", ".join(f"{name} is {there!r} and not {wanted!r}" for name, (there, wanted) in differing.items())
    return ChannelExists(f"channel {queue.name!r} is there with other settings: {text}", differing=sorted(differing))


def _differing(there: ChannelSettings, wanted: Said) -> dict[str, tuple[object, object]]:
    """What is wanted and not so."""
    return {name: (getattr(there, name), value) for name, value in wanted.items() if value != getattr(there, name)}


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
    """Oldest first. A message that came from nowhere, or from an events store, stays, unless it is said where to.

    A store has its events still: by a binding, or through a consumer, others have got them. So it would have them twice.

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
        to = command.to or (origin.channel if origin is not None and not origin.channel.startswith(STORE_PREFIX) else "")
        room = command.count_max - count if command.count_max else batch.last - batch.first + 1
        if to in ("", queue.name) or not (last := _last_waiting(queue, max(batch.first, command.first), batch.last, room)):
            continue
        target = channels.find_or_create(to, ANY_INCARNATION, moment)
        if isinstance(target, RequestError):
            if not count:
                return target
            next_sequence = batch.first
            break
        count += move(queue, queue.take_waiting(max(batch.first, command.first), last), target, REDRIVEN, moment, served)
    queue.counters.moved += count
    return Counted(count, next_sequence)


def _last_waiting(queue: Queue, first: int, last: int, count: int) -> int:
    """The last one of the oldest `count` messages of first .. last that nobody holds, or of fewer; 0: there are none."""
    states: tuple[RangeMap[Any], ...] = (queue.ready, queue.delayed, queue.groups.parked)
    found = 0
    for low, high in sorted(part[:2] for state in states for part in state.overlapping(first, last)):
        if count > 0:
            low, high = max(low, first), min(high, last)
            found = min(high, low + count - 1)
            count -= high - low + 1
    return found


def make_room(channels: Channels, queue: Queue, count: int, size: int, moment: Moment, served: Served) -> ChannelFull | None:
    """See that messages fit the bounds of their channel: drop or dead-letter what is ready or parked, oldest first, or refuse.

    What is in flight or delayed is never dropped. Where that leaves no room the batch is refused; nothing was dropped then,
    unless it takes so many bytes that nobody could tell before.
    """
    settings = queue.settings
    if not _exceeds(queue, count, size):
        return None
    kept = queue.in_flight.count + queue.delayed.count
    if settings.overflow == "reject" or 0 < settings.max_messages < kept + count or 0 < settings.max_bytes < size:
        return too_full(queue, count, size)
    while _exceeds(queue, count, size):
        over = queue.depth + count - settings.max_messages if settings.max_messages else 0
        parts = queue.take_oldest(over if over > 0 else queue.depth)
        if not parts:
            return too_full(queue, count, size)
        if settings.overflow == "drop_oldest":
            queue.counters.dropped += queue.finish(parts)
        elif not dead_letter(channels, queue, parts, OVERFLOW, moment, served):
            return too_full(queue, count, size)
    return None


def overflows(queue: Queue, count: int, size: int, freed: int) -> bool:
    """Whether a batch exceeds the bounds of its channel, when `freed` messages that are in flight there have left."""
    return _exceeds(queue, count - freed, size)


def lacks_room(queue: Queue, count: int, size: int, freed: int) -> ChannelFull | None:
    """Why `make_room` would refuse a batch even if it dropped all that is ready or parked; nothing is changed.

    Of `freed` messages that are in flight and leave first, bytes do not count: those may stay with their neighbours. Costs what
    dropping would.
    """
    settings, kept = queue.settings, queue.in_flight.count + queue.delayed.count - freed
    if not overflows(queue, count, size, freed):
        return None
    if settings.overflow == "reject" or 0 < settings.max_messages < kept + count:
        return too_full(queue, count, size)
    over = queue.size_bytes + size - settings.max_bytes if settings.max_bytes else 0
    return too_full(queue, count, size) if over > 0 and not _can_drop(queue, over) else None


def _can_drop(queue: Queue, size: int) -> bool:
    """Whether so many bytes are free when what is ready or parked is dropped: a batch frees its own with its last message."""
    last = 0
    for part in sorted([*queue.ready, *queue.groups.parked]):
        for batch in queue.batches.upward(part.first):
            if batch.first > part.last:
                break
            if batch.last <= last:
                continue  # another part of it is ready, too, and was seen before
            last = batch.last
            if not queue.in_flight.overlaps(batch.first, last) and not queue.delayed.overlaps(batch.first, last):
                size -= batch.value.share_bytes
                if size <= 0:
                    return True
    return False


def too_full(queue: Queue, count: int, size: int) -> ChannelFull:
    """The refusal of so many messages more, of so many bytes."""
    return _full_with(queue.name, queue.settings, (queue.depth, queue.size_bytes), count, size)


def never_fits(name: str, settings: ChannelSettings, count: int, size: int) -> ChannelFull | None:
    """The refusal of a batch by a channel that would have these settings, and nothing in it."""
    if 0 < settings.max_messages < count or 0 < settings.max_bytes < size:
        return _full_with(name, settings, (0, 0), count, size)
    return None


def _full_with(name: str, settings: ChannelSettings, there: tuple[int, int], count: int, size: int) -> ChannelFull:
    depth, size_bytes = there
    text = (
        f"channel {name!r} has {depth} messages in {size_bytes} bytes, and {count} more in {size} bytes "
        f"exceed its max_messages {settings.max_messages} or its max_bytes {settings.max_bytes} (0: none)"
    )
    bounds: dict[str, Any] = {"max_messages": settings.max_messages, "max_bytes": settings.max_bytes}
    return ChannelFull(text, depth=depth, size_bytes=size_bytes, **bounds)


def _exceeds(queue: Queue, count: int, size: int) -> bool:
    settings = queue.settings
    return 0 < settings.max_messages < queue.depth + count or 0 < settings.max_bytes < queue.size_bytes + size
