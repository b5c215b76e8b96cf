"""Frames of commands and queries: what is pushed to responders and callers, and what nodes tell each other of many calls.

Items of a call, or of an answer, are a packed map of at most 15 entries; they are joined with what only the last node knows,
without being taken apart. Source: docs/PROTOCOL.md §3 and §8.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from zmqbroker.errors import MalformedFrame
from zmqbroker.wire.frames import MAGIC, PROTOCOL_VERSION, Reply, pack, shown, unpack

__all__ = [
    "BUSY",
    "CANCELLED_NOTHING",
    "FAILED",
    "GIVEN",
    "INLINE_SIZE_MAX",
    "LAST",
    "NO_ITEMS",
    "PeerAnswer",
    "PeerCall",
    "answer_frame",
    "called_frame",
    "cancelled_frame",
    "decode_answers",
    "decode_calls",
    "decode_cancels",
    "decode_target",
    "encode_answers",
    "encode_calls",
    "encode_cancels",
    "encode_target",
    "new_row",
]

#: Makes a named tuple of a plain one, in half the time of its own constructor: there are some for each call.
new_row = tuple.__new__
#: The empty map.
NO_ITEMS = b"\x80"

_HEADER = struct.Struct("<2sBBQ")
#: Names and values of what a push adds: deadline_unix_ns u64, remaining_ms u32, subscription u32, call u64.
_TAIL = struct.Struct(">17sBQ13sBI13sBI5sBQ")
_TAIL_COUNT = 4
#: The fields of CANCELLED: a map of subscription u32 and call u64.
_CANCELLED = struct.Struct(">B13sBI5sBQ")
#: A packed map of up to 15 entries says their number in its first byte, and some of them are still to come.
_ITEMS_LAST = 0x80 + 15 - _TAIL_COUNT

_CALLED_HEAD = _HEADER.pack(MAGIC, PROTOCOL_VERSION, Reply.CALLED, 0)
#: A CANCELLED that names no call: whoever is not there any more is refused it, and anybody else drops it.
CANCELLED_NOTHING = _HEADER.pack(MAGIC, PROTOCOL_VERSION, Reply.CANCELLED, 0)

_COUNTS = struct.Struct("<II")
#: number, deadline_unix_ns, remaining_ms, sizes of target, items and body
_CALL = struct.Struct("<QQIIII")
#: number, part, sizes of items and body, flags, 3 zero bytes
_ANSWER = struct.Struct("<QIIIB3x")
#: Larger bodies travel as frames of their own, which are not copied; a frame costs as much as copying some kilobytes.
INLINE_SIZE_MAX = 4096
#: Flags of an answer.
LAST, FAILED, GIVEN, BUSY = 1, 2, 4, 8
#: Those that there are together.
_FLAGS = frozenset((0, LAST, FAILED, FAILED | GIVEN, FAILED | BUSY, FAILED | GIVEN | BUSY))
_TARGETS_MAX = 1024


class PeerCall(NamedTuple):
    """A call that one node asks another."""

    number: int  # the caller's node's
    deadline_unix_ns: int
    remaining_ms: int
    target: bytes
    items: bytes
    body: bytes


class PeerAnswer(NamedTuple):
    """A part of an answer, or that there will be none; then it has no body."""

    number: int  # the caller's node's
    part: int  # from 1
    flags: int
    items: bytes
    body: bytes


# --- to clients ------------------------------------------------------------------------------------------------------


def called_frame(number: int, items: bytes, deadline_unix_ns: int, remaining_ms: int, subscription: int) -> bytes:
    """The header frame of CALLED."""
    tail = _TAIL.pack(
        *(b"\xb0deadline_unix_ns", 0xCF, deadline_unix_ns),
        *(b"\xacremaining_ms", 0xCE, remaining_ms),
        *(b"\xacsubscription", 0xCE, subscription),
        *(b"\xa4call", 0xCF, number),
    )
    return b"".join((_CALLED_HEAD, bytes((items[0] + _TAIL_COUNT,)), items[1:], tail))


def answer_frame(request_id: int, items: bytes, part: int, *, last: bool, cache_hit: bool = False) -> bytes:
    """The header frame of ANSWER."""
    head = _HEADER.pack(MAGIC, PROTOCOL_VERSION, Reply.ANSWER, request_id)
    place: dict[str, Any] = {} if part == 1 and last else {"part": part, "last": last}
    if cache_hit:
        place["cache_hit"] = True
    if not place:
        return head if items == NO_ITEMS else head + items
    return b"".join((head, bytes((items[0] + len(place),)), items[1:], pack(place, "place of an answer")[1:]))


def cancelled_frame(number: int, subscription: int) -> bytes:
    """CANCELLED, whole."""
    return CANCELLED_NOTHING + _CANCELLED.pack(0x82, b"\xacsubscription", 0xCE, subscription, b"\xa4call", 0xCF, number)


# --- between nodes ---------------------------------------------------------------------------------------------------


@lru_cache(maxsize=_TARGETS_MAX)
def encode_target(kind: int, channel: str, groups: tuple[str, ...]) -> bytes:
    """Whom a node is to give a call: a member of each of these groups; of the group "" each."""
    return pack([kind, channel, list(groups)], "target of a call")


@lru_cache(maxsize=_TARGETS_MAX)
def decode_target(target: bytes) -> tuple[int, str, tuple[str, ...]]:
    """Kind, channel and groups. Raises MalformedFrame."""
    found = unpack(target, "target of a call")
    if not isinstance(found, list) or [type(part) for part in found] != [int, str, list]:
        raise MalformedFrame(f"the target of a call is {shown(found)}")
    kind, channel, groups = found
    if not all(isinstance(group, str) for group in groups):
        raise MalformedFrame(f"the groups of a call are {shown(groups)}")
    return kind, channel, tuple(groups)


def encode_calls(calls: Sequence[PeerCall]) -> tuple[bytes, list[bytes]]:
    """Body and frames of a CALL between nodes."""
    parts = [_COUNTS.pack(len(calls), 0)]
    frames: list[bytes] = []
    for number, deadline_unix_ns, remaining_ms, target, items, body in calls:
        parts.append(_CALL.pack(number, deadline_unix_ns, remaining_ms, len(target), len(items), len(body)))
        if len(body) <= INLINE_SIZE_MAX:
            parts += (target, items, body)
        else:
            parts += (target, items)
            frames.append(body)
    return b"".join(parts), frames


def decode_calls(table: bytes, frames: Sequence[bytes]) -> list[PeerCall]:
    """The calls in such a body. Raises MalformedFrame."""
    count, position = _begin(table)
    calls, bodies, row_size, read = [], iter(frames), _CALL.size, _CALL.unpack_from
    for _ in range(count):
        start = position + row_size
        if start > len(table):
            raise _cut(table, position)
        number, deadline_unix_ns, remaining_ms, target_size, items_size, size = read(table, position)
        middle = start + target_size
        end = middle + items_size
        if size <= INLINE_SIZE_MAX:
            position = end + size
            body = table[end:position]
        else:
            position, body = end, _next(bodies, size)
        items = table[middle:end]
        if not items or not 0x80 <= items[0] <= _ITEMS_LAST:
            raise _no_items(items)
        row = number, deadline_unix_ns, remaining_ms, table[start:middle], items, body
        calls.append(new_row(PeerCall, row))
    _finish(table, position, bodies)
    return calls


def encode_answers(answers: Sequence[PeerAnswer]) -> tuple[bytes, list[bytes]]:
    """Body and frames of an ANSWER between nodes."""
    parts = [_COUNTS.pack(len(answers), 0)]
    frames: list[bytes] = []
    for number, part, flags, items, body in answers:
        parts.append(_ANSWER.pack(number, part, len(items), len(body), flags))
        if len(body) <= INLINE_SIZE_MAX:
            parts += (items, body)
        else:
            parts.append(items)
            frames.append(body)
    return b"".join(parts), frames


def decode_answers(table: bytes, frames: Sequence[bytes]) -> list[PeerAnswer]:
    """The answers in such a body. Raises MalformedFrame."""
    count, position = _begin(table)
    answers, bodies, row_size, read = [], iter(frames), _ANSWER.size, _ANSWER.unpack_from
    for _ in range(count):
        start = position + row_size
        if start > len(table):
            raise _cut(table, position)
        number, part, items_size, size, flags = read(table, position)
        if flags not in _FLAGS or (flags & FAILED and size):
            raise MalformedFrame(f"an answer of {size} bytes between nodes has flags {flags:#04x}")
        end = start + items_size
        if size <= INLINE_SIZE_MAX:
            position = end + size
            body = table[end:position]
        else:
            position, body = end, _next(bodies, size)
        items = table[start:end]
        if not items or not 0x80 <= items[0] <= _ITEMS_LAST:
            raise _no_items(items)
        answers.append(new_row(PeerAnswer, (number, part, flags, items, body)))
    _finish(table, position, bodies)
    return answers


def encode_cancels(numbers: Sequence[int]) -> bytes:
    """Body of a CANCEL between nodes."""
    return struct.pack(f"<II{len(numbers)}Q", len(numbers), 0, *numbers)


def decode_cancels(table: bytes) -> tuple[int, ...]:
    """The numbers in such a body. Raises MalformedFrame."""
    count, position = _begin(table)
    _finish(table, position + 8 * count, iter(()))
    return struct.unpack_from(f"<{count}Q", table, position)


def _begin(table: bytes) -> tuple[int, int]:
    if len(table) < _COUNTS.size:
        raise MalformedFrame(f"a table of {len(table)} bytes between nodes is shorter than {_COUNTS.size}")
    count, reserved = _COUNTS.unpack_from(table)
    if reserved:
        raise MalformedFrame(f"the reserved field of a table between nodes is {reserved}, it must be 0")
    return count, _COUNTS.size


def _cut(table: bytes, position: int) -> MalformedFrame:
    return MalformedFrame(f"a table of {len(table)} bytes between nodes is cut at offset {position}")


def _next(bodies: Iterator[bytes], size: int) -> bytes:
    body = next(bodies, None)
    if body is None or len(body) != size:
        what = "is not there" if body is None else f"has {len(body)}"
        raise MalformedFrame(f"a body of {size} bytes between nodes {what}")
    return body


def _no_items(items: bytes) -> MalformedFrame:
    """Items, to which some more can be added, begin otherwise. What they say was checked by the node where they came in."""
    return MalformedFrame(f"items between nodes are no map, or too large: {shown(items)}")


def _finish(table: bytes, position: int, bodies: Iterator[bytes]) -> None:
    """All that was told of is there, and nothing else."""
    if position != len(table):
        raise MalformedFrame(f"a table between nodes ends at offset {position}, it has {len(table)} bytes")
    if next(bodies, None) is not None:
        raise MalformedFrame("a table between nodes comes with more bodies than it tells of")
