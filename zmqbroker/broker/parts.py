"""How the parts of a channel are stored: kinds of keys, with a writer and a reader of values each. `snapshot` has the table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple
from typing import Any

import msgpack

from zmqbroker.broker.backlog import Later
from zmqbroker.broker.claims import Active, Assignment, Waiter
from zmqbroker.broker.dedup import SeenBatch
from zmqbroker.broker.producers import Producer, StoredBatch
from zmqbroker.broker.queue import Queue
from zmqbroker.broker.ranges import Range
from zmqbroker.broker.records import BatchRecord
from zmqbroker.broker.store_consumer import Owner, StoreConsumer
from zmqbroker.commands import Origin, Receive, ReceiveKey

__all__ = [
    "ACTIVE",
    "ASSIGNMENT",
    "BATCH",
    "BINDING",
    "CHANNEL",
    "DEFAULTS",
    "DELAYED",
    "META",
    "MOVED",
    "PARKED",
    "PLACE",
    "PRODUCER",
    "READERS",
    "READY",
    "ROSTER",
    "ROUTE",
    "SCHEDULE",
    "SEEN",
    "WAITING",
    "WRITERS",
    "pack",
]

META, CHANNEL, BATCH, READY, ASSIGNMENT, WAITING, PRODUCER, ROSTER, DELAYED, PARKED, SEEN = range(11)
SCHEDULE, DEFAULTS = 11, 12  # of no channel
ACTIVE, MOVED = 13, 14
PLACE = 15
ROUTE, BINDING = 17, 18  # of no channel


def pack(*values: object) -> bytes:
    """The value of a key."""
    packed: bytes = msgpack.packb(values)
    return packed


def _write_batch(queue: Queue, first: int) -> bytes | None:
    part = queue.batches.get(first)
    if part is None:
        return None
    record = part.value
    frame = (record.index, record.position, record.size, record.body_bytes, record.body_size_max, record.time_unix_ns)
    more = (record.low, record.share_bytes, record.priority, record.expires_unix_ns)
    group = (record.group,) if record.group else ()
    if record.origin is None and (*more, *group) == (0, record.size, 0, 0):
        return pack(part.last, *frame)
    return pack(part.last, *frame, *more, None if record.origin is None else list(astuple(record.origin)), *group)


def _write_ready(queue: Queue, first: int) -> bytes | None:
    part = queue.ready.get(first)
    return None if part is None else pack(part.last, part.value)


def _write_delayed(queue: Queue, first: int) -> bytes | None:
    part = queue.delayed.get(first)
    if part is None:
        return None
    due_unix_ns, deliveries, is_current = part.value
    return pack(part.last, due_unix_ns, deliveries, True) if is_current else pack(part.last, due_unix_ns, deliveries)


def _write_parked(queue: Queue, first: int) -> bytes | None:
    part = queue.groups.parked.get(first)
    return None if part is None else pack(part.last, part.value)


def _write_moved(queue: Queue, first: int) -> bytes | None:
    part = queue.moved.get(first)
    return None if part is None else pack(part.last)


def _write_assignment(queue: Queue, order: int) -> bytes | None:
    assignment = queue.assignments.get(order)
    if assignment is None:
        return None
    key, held = assignment.key, [list(part) for part in assignment.held]
    return pack(assignment.deadline_unix_ns, key.session, key.consumer, key.request, assignment.assigning, held)


def _write_waiter(queue: Queue, order: int) -> bytes | None:
    waiter = queue.waiting.get(order)
    if waiter is None:
        return None
    key, command = waiter.key, waiter.command
    return pack(
        waiter.deadline_unix_ns,
        key.session,
        key.consumer,
        key.request,
        command.count_min,
        command.count_max,
        command.size_max,
        command.wait_ms,
        command.visibility_ms,
        command.incarnation,
        command.consumer_priority,
        command.auto_ack,
    )


def _write_active(queue: Queue, _id: int) -> bytes | None:
    active = queue.single.active if queue.single is not None else None
    if active is None:
        return None
    return pack(active.order, active.deadline_unix_ns, active.session, active.consumer, active.visibility_ms)


def _write_producer(queue: Queue, producer_id: int) -> bytes | None:
    producer = queue.producers.get(producer_id)
    if producer is None:
        return None
    return pack(producer.used, producer.last_sequence, [list(result) for result in producer.results.values()])


def _write_seen(queue: Queue, first: int) -> bytes | None:
    batch = queue.seen.get(first)
    return None if batch is None else pack(*batch)


def _write_place(queue: Queue, _id: int) -> bytes | None:
    assert isinstance(queue, StoreConsumer)
    return None if queue.is_deleted else pack(*queue.owner, queue.missed)


WRITERS: dict[int, Callable[[Queue, int], bytes | None]] = {
    BATCH: _write_batch,
    READY: _write_ready,
    DELAYED: _write_delayed,
    PARKED: _write_parked,
    MOVED: _write_moved,
    ASSIGNMENT: _write_assignment,
    WAITING: _write_waiter,
    ACTIVE: _write_active,
    PRODUCER: _write_producer,
    SEEN: _write_seen,
    PLACE: _write_place,
}


def _read_batch(queue: Queue, first: int, values: list[Any]) -> None:
    last, index, position, size, body_bytes, body_size_max, time_unix_ns, *more = values
    record = BatchRecord(index, position, size, body_bytes, body_size_max, time_unix_ns, live=0, share_bytes=size)
    if more:
        record.low, record.share_bytes, record.priority, record.expires_unix_ns, origin, *group = more
        record.origin = None if origin is None else Origin(*origin)
        if group:
            (record.group,) = group
            _check_text(record.group)
    queue.add_batch(first, last, record)


def _check_text(group: object) -> None:
    if type(group) is not str or not group:
        raise ValueError(f"a group is {group!r}")


def _read_ready(queue: Queue, first: int, values: list[Any]) -> None:
    last, delivery_count = values
    queue.add_ready(first, last, delivery_count)


def _read_delayed(queue: Queue, first: int, values: list[Any]) -> None:
    last, due_unix_ns, delivery_count, *current = values
    if current not in ([], [True]):
        raise ValueError(f"a delayed range ends with {current!r}")
    queue.delay(first, last, Later(due_unix_ns, delivery_count, bool(current)))


def _read_parked(queue: Queue, first: int, values: list[Any]) -> None:
    last, delivery_count = values
    queue.groups.parked.add(first, last, delivery_count)


def _read_moved(queue: Queue, first: int, values: list[Any]) -> None:
    (last,) = values
    queue.moved.add(first, last, 0)


def _read_assignment(queue: Queue, order: int, values: list[Any]) -> None:
    deadline, session, consumer, request, assigning, held = values
    parts = [Range[int](*part) for part in held]
    queue.add_assignment(Assignment(order, queue.number, deadline, ReceiveKey(session, consumer, request), assigning, parts))


def _read_waiter(queue: Queue, order: int, values: list[Any]) -> None:
    deadline, session, consumer, request, *rest = values
    *counts, wait_ms, visibility_ms, incarnation, priority, auto_ack = rest
    count_min, count_max, size_max = counts
    key = ReceiveKey(session, consumer, request)
    counted = count_min, count_max, size_max
    command = Receive(key, queue.name, *counted, wait_ms, visibility_ms, incarnation, priority, auto_ack)
    queue.add_waiter(Waiter(order, queue.number, deadline, command))


def _read_active(queue: Queue, _id: int, values: list[Any]) -> None:
    order, deadline, session, consumer, visibility_ms = values
    queue.add_active(Active(queue.number, session, consumer, visibility_ms, queue.dirty_active, 0, order, deadline))


def _read_producer(queue: Queue, producer_id: int, values: list[Any]) -> None:
    used, last_sequence, results = values
    producer = Producer(used, last_sequence)
    for result in results:
        producer.results[result[0]] = StoredBatch(*result)
    queue.producers.restore(producer_id, producer)


def _read_seen(queue: Queue, first: int, values: list[Any]) -> None:
    time_unix_ns, ids, duplicates = values
    queue.seen.restore(first, SeenBatch(time_unix_ns, tuple(ids), tuple((place, stored) for place, stored in duplicates)))


def _read_place(queue: Queue, _id: int, values: list[Any]) -> None:
    session, consumer, missed = values
    assert isinstance(queue, StoreConsumer)
    queue.restore_place(Owner(session, consumer), missed)


READERS: dict[int, Callable[[Queue, int, list[Any]], None]] = {
    BATCH: _read_batch,
    READY: _read_ready,
    DELAYED: _read_delayed,
    PARKED: _read_parked,
    MOVED: _read_moved,
    ASSIGNMENT: _read_assignment,
    WAITING: _read_waiter,
    ACTIVE: _read_active,
    PRODUCER: _read_producer,
    SEEN: _read_seen,
    PLACE: _read_place,
}
