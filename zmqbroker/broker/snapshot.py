"""State as sorted keys and values: what the store holds between two starts.

Keys are a kind byte, the channel's number and what tells siblings apart, big-endian, so that they sort in the order in which
they can be restored. Values are msgpack arrays of integers, text and bytes. Equal state has equal bytes. What follows from the
rest (the in-flight ranges, live counts, sizes, deadlines, indexes by session) is not stored but derived. `applied_index` is
not among the keys: the store keeps it and moves it together with them.

| kind | rest of the key | value |
|---|---|---|
| 0 meta | – | version, now_unix_ns, next_order, trimmed_index, next_number |
| 1 channel | number u32 | name, incarnation, next_sequence, producer uses, counters, settings |
| 2 batch | number u32, first u64 | last, index, position, size, body_bytes, body_size_max, time_unix_ns, more … |
| 3 ready range | number u32, first u64 | last, delivery_count |
| 4 assignment | number u32, order u64 | deadline_unix_ns, receive key, assigning, [[first, last, delivery_count], …] |
| 5 waiting receive | number u32, order u64 | deadline_unix_ns, receive key, the other fields of `Receive` in its order |
| 6 producer | number u32, producer u64 | used, last_sequence, [[base_sequence, count, first_sequence, time_unix_ns], …] |
| 7 roster | – | index, next_id, membership, [[id, name, uid, peer, voter, replaces], …] |
| 8 delayed range | number u32, first u64 | last, due_unix_ns, delivery_count, more … |
| 9 parked range | number u32, first u64 | last, delivery_count |
| 10 ids of a batch | number u32, first u64 | time_unix_ns, [id, empty for none, …], [[place, sequence], …] of duplicates |
| 11 schedule | assigning u64 | name, channel, position, size, body_bytes, runs, checksum, plan, instant_unix_ns … |
| 12 defaults | assigning u64 | pattern, {setting: value} |
| 13 active consumer | number u32, 0 u64 | order, deadline_unix_ns, session, consumer, visibility_ms |
| 14 moved range | number u32, first u64 | last |
| 15 place of a consumer of a store | number u32, 0 u64 | session and consumer of the only reader (empty: any), missed |
| 17 route | assigning u64 | name, destinations |
| 18 binding | assigning u64 | source, [queue, …], messages left out |

Counters are those of `Counters`, settings a map of what differs from the default. A batch that is not like a whole one has
more: low, share_bytes, priority, expires_unix_ns, origin: nil or [channel, sequence, delivery_count, reason]; and the group of
its messages, if they have one. More of a delayed range is true: its messages are the current ones of their groups.
What comes last of a schedule is ended (1: yes), stored, skipped; its number tells the entry that has its message.
A receive key is session, consumer, request, in the same array. Every key of the store is at most 13 bytes, whatever the length
of a channel's name. Checksums are the store's business.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import asdict, astuple
from typing import Any, NamedTuple

import msgpack

from zmqbroker.broker.claims import ACTIVE_ID
from zmqbroker.broker.counters import Counters
from zmqbroker.broker.dirty import Dirty
from zmqbroker.broker.parts import (
    ACTIVE,
    ASSIGNMENT,
    BATCH,
    BINDING,
    CHANNEL,
    DEFAULTS,
    DELAYED,
    META,
    MOVED,
    PARKED,
    PLACE,
    PRODUCER,
    READERS,
    READY,
    ROSTER,
    ROUTE,
    SCHEDULE,
    SEEN,
    WAITING,
    WRITERS,
    pack,
)
from zmqbroker.broker.queue import Queue
from zmqbroker.broker.schedules import SCHEDULE_KEY
from zmqbroker.broker.store_consumer import PLACE_ID, StoreConsumer
from zmqbroker.commands import RECEIPT_ORDINAL_BITS, ChannelSettings, Member, Roster
from zmqbroker.errors import Corruption

__all__ = [
    "META_KEY",
    "ROSTER_KEY",
    "UNREADABLE",
    "Channel",
    "Meta",
    "describe",
    "entry_index",
    "finish",
    "is_rule",
    "number_of",
    "queue_changes",
    "queue_items",
    "read_channel",
    "read_meta",
    "read_roster",
    "read_version",
    "restore_channel",
    "restore_part",
    "write_meta",
    "write_roster",
]

_DEFAULTS = ChannelSettings()

META_KEY = bytes([META])
ROSTER_KEY = bytes([ROSTER])

#: What reading a value raises that nobody wrote here: of other types, too few of them, or ranges that overlap (an assert).
UNREADABLE = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError, struct.error)

_CHANNEL_KEY = struct.Struct(">BI")
_PART_KEY = struct.Struct(">BIQ")


class Meta(NamedTuple):
    """What belongs to no channel."""

    version: int
    now_unix_ns: int
    next_order: int
    trimmed_index: int
    next_number: int  # of the next channel


class Channel(NamedTuple):
    """What belongs to a channel as a whole."""

    name: str
    incarnation: int
    next_sequence: int
    uses: int
    counters: list[int]
    settings: dict[str, Any]  # those that differ from the default


# --- writing ----------------------------------------------------------------------------------------------------------


def write_meta(meta: Meta) -> bytes:
    """The value of the meta key."""
    return pack(*meta)


def write_roster(roster: Roster) -> bytes:
    """The value of the roster's key."""
    members = [[member.id, member.name, member.uid, member.peer, member.voter, member.replaces] for member in roster.members]
    return pack(roster.index, roster.next_id, roster.membership, members)


def queue_items(queue: Queue) -> Iterator[tuple[bytes, bytes]]:
    """All keys and values of a channel, in no promised order."""
    yield _header(queue)
    parts: tuple[tuple[int, Iterable[int]], ...] = (
        (BATCH, (part.first for part in queue.batches)),
        (READY, (part.first for part in queue.ready)),
        (DELAYED, (part.first for part in queue.delayed)),
        (PARKED, (part.first for part in queue.groups.parked)),
        (MOVED, (part.first for part in queue.moved)),
        (ASSIGNMENT, queue.assignments),
        (WAITING, (waiter.order for waiter in queue.waiting)),
        (ACTIVE, (ACTIVE_ID,) if queue.single is not None and queue.single.active is not None else ()),
        (PRODUCER, queue.producers),
        (SEEN, queue.seen),
        (PLACE, (PLACE_ID,) if isinstance(queue, StoreConsumer) else ()),
    )
    for kind, ids in parts:
        write = WRITERS[kind]
        for part_id in ids:
            value = write(queue, part_id)
            assert value is not None
            yield _PART_KEY.pack(kind, queue.number, part_id), value


def queue_changes(queue: Queue) -> Iterator[tuple[bytes, bytes | None]]:
    """The changed keys of a channel with their values, None for deleted ones; from now on they count as stored."""
    key, header = _header(queue)
    if not queue.is_deleted:
        yield key, header
    elif queue.is_stored:
        yield key, None
    queue.is_stored = True
    for kind, dirty in _dirty_parts(queue):
        write = WRITERS[kind]
        for part_id in dirty.take():
            yield _PART_KEY.pack(kind, queue.number, part_id), write(queue, part_id)


def _dirty_parts(queue: Queue) -> tuple[tuple[int, Dirty[int]], ...]:
    return (
        (BATCH, queue.batches.dirty),
        (READY, queue.ready.dirty),
        (DELAYED, queue.delayed.dirty),
        (PARKED, queue.groups.parked.dirty),
        (MOVED, queue.moved.dirty),
        (ASSIGNMENT, queue.dirty_assignments),
        (WAITING, queue.waiting.dirty),
        (ACTIVE, queue.dirty_active),
        (PRODUCER, queue.producers.dirty),
        (SEEN, queue.seen.dirty),
        *(((PLACE, queue.dirty_place),) if isinstance(queue, StoreConsumer) else ()),
    )


def _header(queue: Queue) -> tuple[bytes, bytes]:
    counters = list(astuple(queue.counters))
    settings = {name: value for name, value in asdict(queue.settings).items() if value != getattr(_DEFAULTS, name)}
    uses = queue.producers.uses
    channel = Channel(queue.name, queue.incarnation, queue.next_sequence, uses, counters, settings)
    return _CHANNEL_KEY.pack(CHANNEL, queue.number), pack(*channel)


# --- reading ----------------------------------------------------------------------------------------------------------


def read_version(value: bytes) -> Any:
    """The machine version in the meta key's value, whatever else is in a value of that version."""
    version, *_ = msgpack.unpackb(value)
    return version


def read_meta(value: bytes) -> Meta:
    """The meta key's value."""
    return Meta(*msgpack.unpackb(value))


def read_roster(value: bytes) -> Roster:
    """The roster's value."""
    index, next_id, membership, members = msgpack.unpackb(value)
    return Roster(index, tuple(Member(*member) for member in members), membership, next_id)


def number_of(key: bytes) -> int:
    """The channel number in a key that is not the meta key. Raises `Corruption` for what is no key of this module."""
    sizes = {CHANNEL: _CHANNEL_KEY.size} | dict.fromkeys(WRITERS, _PART_KEY.size)
    if not key or sizes.get(key[0]) != len(key):
        raise Corruption(f"the state has an unknown key {key.hex()!r}")
    return int.from_bytes(key[1:5], "big")


_KIND_NAMES = {
    BATCH: "batch",
    READY: "ready range",
    ASSIGNMENT: "assignment",
    WAITING: "waiting receive",
    PRODUCER: "producer",
    DELAYED: "delayed range",
    PARKED: "parked range",
    MOVED: "moved range",
    SEEN: "batch of ids",
    ACTIVE: "active consumer",
    PLACE: "place of a consumer",
}


_RULE_NAMES = {SCHEDULE: "schedule", DEFAULTS: "defaults", ROUTE: "route", BINDING: "binding"}


def describe(key: bytes) -> tuple[int, str]:
    """The number of a key's channel (0: none) and what it is of that, in words ("": the channel itself).

    Raises `Corruption` for what is no key.
    """
    if key in (META_KEY, ROSTER_KEY):
        return 0, "the time and counters" if key == META_KEY else "the members"
    if is_rule(key):
        return 0, f"{_RULE_NAMES[key[0]]} {SCHEDULE_KEY.unpack(key)[1]}"
    number = number_of(key)
    return number, "" if key[0] == CHANNEL else f"{_KIND_NAMES[key[0]]} {_PART_KEY.unpack(key)[2]}"


def entry_index(key: bytes, value: bytes) -> int | None:
    """The entry that holds the bodies of a batch or a schedule, None when the key is that of neither."""
    if key[0] == SCHEDULE:
        return int(SCHEDULE_KEY.unpack(key)[1]) >> RECEIPT_ORDINAL_BITS
    return int(msgpack.unpackb(value)[1]) if key[0] == BATCH else None


def is_rule(key: bytes) -> bool:
    """True for the key of a rule, which is of no channel."""
    return len(key) == SCHEDULE_KEY.size and key[0] in _RULE_NAMES


def read_channel(key: bytes, value: bytes) -> Channel | None:
    """The channel's own record, None when the key is that of a part of it."""
    return Channel(*msgpack.unpackb(value)) if key[0] == CHANNEL else None


def restore_channel(queue: Queue, channel: Channel) -> None:
    """Set what belongs to the channel as a whole; name and incarnation are set already."""
    queue.next_sequence = channel.next_sequence
    queue.producers.uses = channel.uses
    queue.counters = Counters(*channel.counters)
    queue.settings = ChannelSettings(**channel.settings)
    queue.is_stored = True


def restore_part(queue: Queue, key: bytes, value: bytes) -> None:
    """Add one batch, ready range, assignment, waiting receive or producer, in the order of keys."""
    kind, _, part_id = _PART_KEY.unpack(key)
    READERS[kind](queue, part_id, msgpack.unpackb(value))


def finish(queue: Queue) -> list[int]:
    """Derive what is not stored, once all parts are there; returns the entry index of each live batch.

    Raises `Corruption` unless every live message lies in a batch, every batch has a live message, and its groups are possible.
    """
    for part in (*queue.ready, *queue.delayed, *queue.groups.parked, *queue.in_flight):
        for batch in queue.batches.overlapping(part.first, part.last):
            batch.value.live += min(part.last, batch.last) - max(part.first, batch.first) + 1
    lives = [batch.value.live for batch in queue.batches]
    if 0 in lives or sum(lives) != queue.depth:
        raise Corruption(f"channel {queue.name!r}: batches and live messages do not fit each other")
    if not queue.restore_groups():
        raise Corruption(f"channel {queue.name!r}: its groups and their messages do not fit each other")
    queue.producers.sort_by_use()
    queue.note_window()
    for _, dirty in _dirty_parts(queue):
        dirty.take()
    return [batch.value.index for batch in queue.batches]
