"""How a hand-over lies in an entry: what is said of it, then its batch frames as they came. Source: docs/PROTOCOL.md §9."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from zmqbroker.commands import Ack, HandOver, Publish, Receipt
from zmqbroker.errors import LocalProtocolError, MalformedFrame
from zmqbroker.wire import codec
from zmqbroker.wire.columns import read_ids, read_runs
from zmqbroker.wire.command_shapes import SHAPES, is_u64
from zmqbroker.wire.frames import pack, shown, unpack
from zmqbroker.wire.send_requests import HAND_OVER_BATCHES_MAX

__all__ = [
    "HAND_OVER",
    "HandOverFrames",
    "are_sizes",
    "check_end",
    "hand_over_head",
    "read_batches",
    "read_hand_over",
    "read_head",
    "write_head",
]

#: Type of the command.
HAND_OVER = 19
#: Size of the head, which is msgpack.
_HEAD = struct.Struct("<I")


class HandOverFrames(NamedTuple):
    """A hand-over that is to be written: its batches are frames still."""

    session: bytes
    channel: str
    receipts: tuple[Receipt, ...]
    frames: tuple[bytes, ...]  # `codec.read_batch` accepted them, checksums included


def are_sizes(value: object) -> bool:
    """True for the sizes of as many frames as one command may have."""
    return type(value) is list and 1 <= len(value) <= HAND_OVER_BATCHES_MAX and all(map(is_u64, value))


_CHECKS = (*SHAPES[Ack].checks, are_sizes)


def _fits(items: object) -> bool:
    if type(items) is not list or len(items) != len(_CHECKS):
        return False
    return all(check(item) for check, item in zip(_CHECKS, items, strict=True))


def hand_over_head(command: HandOverFrames) -> bytes:
    """What comes before the frames. Raises LocalProtocolError when a value is out of its range."""
    receipts = [[receipt.assigning, receipt.first, receipt.last] for receipt in command.receipts]
    items = [command.session, command.channel, receipts, list(map(len, command.frames))]
    if not _fits(items):
        raise LocalProtocolError(f"a value of this hand-over is out of its range: {shown(items)}")
    return write_head(items, "HandOver")


def read_hand_over(data: bytes, start: int, size: int) -> HandOver:
    """The hand-over at data[start : start + size] of an entry; checksums of its frames are not verified.

    Raises MalformedFrame.
    """
    items, position = read_head(data, start, size, "HandOver", _fits)
    session, channel, receipts, sizes = items
    check_end(position + sum(sizes), start, size, "HandOver")
    return HandOver(session, channel, tuple(Receipt(*receipt) for receipt in receipts), read_batches(data, position, sizes))


def write_head(items: list[Any], what: str) -> bytes:
    """What says of itself how long it is, and then what it says of the frames behind it. Raises LocalProtocolError."""
    head = pack(items, what)
    return _HEAD.pack(len(head)) + head


def read_head(data: bytes, start: int, size: int, what: str, fits: Callable[[object], bool]) -> tuple[Any, int]:
    """The items of such a head at data[start : start + size], and where the frames begin. Raises MalformedFrame."""
    head_at, end = start + _HEAD.size, start + size
    if head_at > end:
        raise MalformedFrame(f"{what} at offset {start} has {size} bytes, fewer than {_HEAD.size}")
    position = head_at + _HEAD.unpack_from(data, start)[0]
    if position > end:
        raise MalformedFrame(f"what {what} at offset {start} says of itself ends at {position}, it ends at {end}")
    items = unpack(data[head_at:position], what)
    if not fits(items):
        raise MalformedFrame(f"{what} at offset {start} has wrong values: {shown(items)}")
    return items, position


def check_end(end: int, start: int, size: int, what: str) -> None:
    """Frames must end where the command does that they are of. Raises MalformedFrame."""
    if end != start + size:
        raise MalformedFrame(f"batches of {what} at offset {start} end at {end}, it ends at {start + size}")


def read_batches(data: bytes, position: int, sizes: Sequence[int], expected_sequence: int | None = None) -> tuple[Publish, ...]:
    """The batches whose frames, of these sizes, lie from data[position] on, unverified. Raises MalformedFrame."""
    batches: list[Publish] = []
    for size in sizes:
        header = codec.read_batch(data, position, size, verify=False)
        runs, ids = read_runs(data, position, header), read_ids(data, position, header)
        batches.append(Publish(header, position, size, runs=runs, ids=ids, expected_sequence=expected_sequence))
        position += size
    return tuple(batches)
