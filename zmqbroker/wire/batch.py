"""The shape of a batch frame, shared by the two codecs: limits, columns, contents, and what each fault is called.

Both twins (`_codec_py` and the compiled `_codec`) raise the errors made here, so that they cannot word one differently.
It reads and writes no bytes itself. Source: docs/PROTOCOL.md §5.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

from zmqbroker.commands import BatchHeader
from zmqbroker.errors import ChecksumMismatch, LocalProtocolError, MalformedFrame, MessageTooLarge

__all__ = [
    "BATCH_MAGIC",
    "BATCH_MARGIN",
    "BODY_SIZE_MAX",
    "CHANNEL_SIZE_MAX",
    "COLUMNS",
    "COLUMNS_SERVED",
    "COUNT_MAX",
    "FLAGS_KNOWN",
    "HEADERS_SIZE_MAX",
    "HEADER_SIZE",
    "ID_SIZE_MAX",
    "SEQUENCE_MAX",
    "BatchContents",
    "Buffer",
    "Column",
]

#: Anything that a frame may arrive in.
Buffer = bytes | bytearray | memoryview

BATCH_MAGIC = b"ZBB1"
#: Bytes before the channel name.
HEADER_SIZE = 40
#: A count must fit the 16 ordinal bits of a receipt and one byte less than two is not worth a frame.
COUNT_MAX = 65_535
CHANNEL_SIZE_MAX = 255
#: The largest `message_bytes_max` that a cluster may be configured with.
BODY_SIZE_MAX = 64 << 20
#: A batch frame may be this much larger than the largest body: header, sizes and columns.
BATCH_MARGIN = 1 << 20
SEQUENCE_MAX = 2**64 - 1
ID_SIZE_MAX = 255
HEADERS_SIZE_MAX = 65_535
#: Bit 0: bodies are compressed by the producer (`compression`).
FLAGS_KNOWN = 0x0001


class Column(NamedTuple):
    """One optional column: `width` bytes per value, or 0 for values of any size up to `limit` bytes."""

    name: str
    width: int
    limit: int  # largest value of a priority, largest size of a variable value, 0 for none
    text: bool


#: In bit order.
COLUMNS = (
    Column("id", 0, ID_SIZE_MAX, True),
    Column("headers", 0, HEADERS_SIZE_MAX, False),
    Column("delay_ms", 8, 0, False),
    Column("expiry_ms", 8, 0, False),
    Column("priority", 1, 9, False),
    Column("group", 0, 255, True),
    Column("key", 0, 255, True),
)
#: Bit set of the columns that this version serves: id, headers, delay, expiry, priority, group.
COLUMNS_SERVED = 0x003F


class BatchContents(NamedTuple):
    """A batch taken apart: one item per message in each list; None for a column that is not there."""

    header: BatchHeader
    bodies: list[bytes]
    ids: list[bytes] | None
    headers: list[bytes] | None


# --- faults of a batch that was read --------------------------------------------------------------------------------


def outside(position: int, size: int, total: int) -> MalformedFrame:
    """The part that should hold a batch is not inside its buffer."""
    return MalformedFrame(f"a batch of {size} bytes at offset {position} does not fit in {total} bytes")


def too_short(size: int) -> MalformedFrame:
    """Not even a header."""
    return MalformedFrame(f"a batch frame of {size} bytes is shorter than its {HEADER_SIZE} byte header")


def wrong_magic(magic: bytes) -> MalformedFrame:
    """Something else than a batch."""
    return MalformedFrame(f"a batch frame begins with {magic!r} and not with {BATCH_MAGIC!r}")


def wrong_size(stated: int, size: int) -> MalformedFrame:
    """Cut, or with bytes behind it."""
    return MalformedFrame(f"a batch frame of {size} bytes says that it has {stated}")


def wrong_checksum(stated: int, computed: int) -> ChecksumMismatch:
    """Damaged on its way."""
    return ChecksumMismatch(f"a batch frame says crc32c {stated:#010x}, its bytes have {computed:#010x}")


def wrong_field(name: str, value: int, low: int, high: int) -> MalformedFrame:
    """A header field out of its range."""
    return MalformedFrame(f"{name} of a batch is {value}, allowed is {low} to {high}")


def wrong_bits(name: str, value: int, known: int) -> MalformedFrame:
    """A bit set with bits that are not defined."""
    return MalformedFrame(f"{name} of a batch are {value:#06x}, defined are {known:#06x}")


def channel_not_text(channel: bytes) -> MalformedFrame:
    """A channel name that is not UTF-8."""
    return MalformedFrame(f"channel name {channel!r} of a batch is not valid UTF-8")


def cut(part: str, end: int, size: int) -> MalformedFrame:
    """A part reaches beyond the frame."""
    return MalformedFrame(f"{part} of a batch end at offset {end}, beyond its {size} bytes")


def wrong_end(end: int, size: int) -> MalformedFrame:
    """The parts together are not the frame."""
    return MalformedFrame(f"bodies of a batch end at offset {end}, the frame has {size} bytes")


def value_too_large(column: str, message: int, value: int, limit: int) -> MalformedFrame:
    """A column's value, or its size, over the column's limit."""
    return MalformedFrame(f"{column} of message {message} in a batch is {value}, the limit is {limit}")


def column_not_text(column: str, values: bytes, sizes: Sequence[int]) -> MalformedFrame:
    """A text column holds a value that is not UTF-8; finds the first one."""
    starts = accumulate(sizes, initial=0)
    message = next(
        message
        for message, (start, size) in enumerate(zip(starts, sizes, strict=False))
        if not _is_text(values[start : start + size])
    )
    return MalformedFrame(f"{column} of message {message} in a batch is not valid UTF-8")


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def body_too_large(size: int, limit: int) -> MessageTooLarge:
    """A body over the limit that the reader gave."""
    return MessageTooLarge(f"a message has {size} bytes, the limit is {limit}", size=size, limit=limit)


def batch_too_large(size: int, limit: int) -> MessageTooLarge:
    """A whole batch over the limit that follows from the reader's."""
    return MessageTooLarge(f"a batch frame has {size} bytes, the limit is {limit}", size=size, limit=limit)


# --- faults of a batch that was to be written -----------------------------------------------------------------------


def cannot_write(what: str, value: object, allowed: str) -> LocalProtocolError:
    """Something that the protocol forbids to send."""
    return LocalProtocolError(f"{what} is {value!r}, allowed is {allowed}")
