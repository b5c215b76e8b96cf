"""How a PublishAll lies in an entry: what is said of it, then its batch frames. Source: docs/PROTOCOL.md §9."""

from __future__ import annotations

from typing import NamedTuple

from zmqbroker.commands import PublishAll
from zmqbroker.errors import LocalProtocolError
from zmqbroker.wire.command_shapes import is_u64
from zmqbroker.wire.frames import shown
from zmqbroker.wire.hand_overs import are_sizes, check_end, read_batches, read_head, write_head

__all__ = ["PUBLISH_ALL", "PublishAllFrames", "publish_all_head", "read_publish_all"]

#: Type of the command.
PUBLISH_ALL = 29


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
    return write_head(items, "PublishAll")


def read_publish_all(data: bytes, start: int, size: int) -> PublishAll:
    """The PublishAll at data[start : start + size] of an entry; checksums of its frames are not verified.

    Raises MalformedFrame.
    """
    items, position = read_head(data, start, size, "PublishAll", _fits)
    expected, sizes = items
    check_end(position + sum(sizes), start, size, "PublishAll")
    return PublishAll(read_batches(data, position, sizes, expected))
