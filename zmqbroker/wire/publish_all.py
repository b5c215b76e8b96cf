"""How a PublishAll lies in an entry: what is said of it, then its batch frames. Source: docs/PROTOCOL.md §9."""

from __future__ import annotations

import struct
from typing import NamedTuple

from zmqbroker.commands import PublishAll
from zmqbroker.errors import LocalProtocolError, MalformedFrame
from zmqbroker.wire.command_shapes import is_u64
from zmqbroker.wire.frames import pack, shown, unpack
from zmqbroker.wire.hand_overs import are_sizes, read_batches

__all__ = ["PUBLISH_ALL", "PublishAllFrames", "publish_all_head", "read_publish_all"]

#: Type of the command.
PUBLISH_ALL = 29
#: Size of the head, which is msgpack.
_HEAD = struct.Struct("<I")


class PublishAllFrames(NamedTuple):
    """A PublishAll that is to be written: its batches are frames still."""

    frames: tuple[bytes, ...]  # `codec.read_batch` accepted them, checksums included; each for another channel
    expected_sequence: int | None = None  # what the last sequence of each channel must be; None: any


def _fits(items: object) -> bool:
    if type(items) is not list or len(items) != 2:
        return False
    expected, sizes = items
    return (expected is None or is_u64(expected)) and are_sizes(sizes)


def publish_all_head(command: PublishAllFrames) -> bytes:
    """What comes before the frames. Raises LocalProtocolError when a value is out of its range."""
    items = [command.expected_sequence, list(map(len, command.frames))]
    if not _fits(items):
        raise LocalProtocolError(f"a value of this PublishAll is out of its range: {shown(items)}")
    head = pack(items, "PublishAll")
    return _HEAD.pack(len(head)) + head


def read_publish_all(data: bytes, start: int, size: int) -> PublishAll:
    """The PublishAll at data[start : start + size] of an entry; checksums of its frames are not verified.

    Raises MalformedFrame.
    """
    head_at, end = start + _HEAD.size, start + size
    if head_at > end:
        raise MalformedFrame(f"PublishAll at offset {start} has {size} bytes, fewer than {_HEAD.size}")
    position = head_at + _HEAD.unpack_from(data, start)[0]
    if position > end:
        raise MalformedFrame(f"what PublishAll at offset {start} says of itself ends at {position}, it ends at {end}")
    items = unpack(data[head_at:position], "PublishAll")
    if not _fits(items):
        raise MalformedFrame(f"PublishAll at offset {start} has wrong values: {shown(items)}")
    expected, sizes = items
    if position + sum(sizes) != end:
        raise MalformedFrame(f"batches of PublishAll at offset {start} end at {position + sum(sizes)}, it ends at {end}")
    return PublishAll(read_batches(data, position, sizes, expected))
