"""The batch codec in Python: the reference, and the twin of the compiled ext/_codec.pyx.

Reading checks everything about a frame but the bodies and the inside of headers, and refuses it otherwise; writing refuses what
the protocol forbids. Both twins give the same bytes, the same values and the same errors, in the same order of checks. It
does not decide whether a well-formed batch is served (columns, flags) or whether its channel name is allowed.
Source: docs/PROTOCOL.md §5.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from itertools import accumulate

from crc32c import crc32c as _crc32c

from zmqbroker.commands import BatchHeader
from zmqbroker.wire import batch as shape
from zmqbroker.wire.batch import BatchContents, Buffer

__all__ = ["crc32c", "decode_batch", "encode_batch", "join_parts", "read_batch", "slice_batch"]

#: magic, crc32c, size, count, producer, base sequence, columns, flags, channel name size, reserved
_HEADER = struct.Struct("<4sIIIQQHHHH")
#: Of the size of a variable value or of a body.
_SIZE = 4
_COLUMNS_KNOWN = (1 << len(shape.COLUMNS)) - 1


def crc32c(data: Buffer, seed: int = 0) -> int:
    """crc32c (Castagnoli) of `data`; `seed` is the result for the bytes before it."""
    return int(_crc32c(data, seed))


# --- reading ---------------------------------------------------------------------------------------------------------


class _Column:
    """Where a column that is there lies: offsets in the frame, and the sizes of its values when they vary."""

    __slots__ = ("end", "sizes", "start")

    def __init__(self, start: int, end: int, sizes: tuple[int, ...] | None) -> None:
        self.start = start
        self.end = end
        self.sizes = sizes


class _Layout:
    """A batch frame that passed every check, and where its parts are."""

    __slots__ = ("bodies_at", "body_sizes", "columns", "header", "view")

    def __init__(self, view: memoryview, verify: bool, body_size_max: int) -> None:
        self.view = view
        _check_start(view, verify, body_size_max)
        count, producer, base_sequence, columns, flags, channel_size = _check_fields(view)
        position = shape.HEADER_SIZE + channel_size
        self.body_sizes, position = _read_sizes(view, "body sizes", position, count)
        self.columns: dict[int, _Column] = {}
        for bit in range(len(shape.COLUMNS)):
            if columns >> bit & 1:
                self.columns[bit] = _read_column(view, bit, position, count)
                position = self.columns[bit].end
        self.bodies_at = position
        body_bytes, largest = sum(self.body_sizes), max(self.body_sizes)
        if position + body_bytes != len(view):
            raise shape.wrong_end(position + body_bytes, len(view))
        if largest > body_size_max:
            raise shape.body_too_large(largest, body_size_max)
        channel = _channel(bytes(view[shape.HEADER_SIZE : shape.HEADER_SIZE + channel_size]))
        self.header = BatchHeader(channel, producer, base_sequence, count, body_bytes, largest, columns, flags)

    def values(self, start: int, sizes: Sequence[int]) -> list[bytes]:
        """Values of the given sizes, one after the other from `start`."""
        bounds = accumulate(sizes, initial=start)
        return [bytes(self.view[low : low + size]) for low, size in zip(bounds, sizes, strict=False)]

    def column_values(self, bit: int) -> list[bytes] | None:
        """All values of a variable column; None when it is not there."""
        column = self.columns.get(bit)
        if column is None or column.sizes is None:
            return None
        return self.values(column.start + _SIZE * len(column.sizes), column.sizes)


def _part(frame: Buffer, position: int, size: int) -> memoryview:
    view = memoryview(frame).cast("B")
    total = len(view)
    if size < 0:
        size = total - position
    if not 0 <= position <= total or size > total - position:
        raise shape.outside(position, size, total)
    return view[position : position + size]


def _check_start(view: memoryview, verify: bool, body_size_max: int) -> None:
    size = len(view)
    if size < shape.HEADER_SIZE:
        raise shape.too_short(size)
    magic, checksum, stated_size = struct.unpack_from("<4sII", view)
    if magic != shape.BATCH_MAGIC:
        raise shape.wrong_magic(magic)
    if stated_size != size:
        raise shape.wrong_size(stated_size, size)
    limit = body_size_max + shape.BATCH_MARGIN
    if size > limit:
        raise shape.batch_too_large(size, limit)
    if verify and checksum != (computed := crc32c(view[8:])):
        raise shape.wrong_checksum(checksum, computed)


def _check_number(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise shape.wrong_field(name, value, low, high)


def _check_fields(view: memoryview) -> tuple[int, int, int, int, int, int]:
    """Count, producer, base sequence, columns, flags and channel name size, each in its range."""
    _, _, _, count, producer, base_sequence, columns, flags, channel_size, reserved = _HEADER.unpack_from(view)
    _check_number("count", count, 1, shape.COUNT_MAX)
    _check_number("base sequence", base_sequence, *_sequence_range(producer, count))
    if columns & ~_COLUMNS_KNOWN:
        raise shape.wrong_bits("columns", columns, _COLUMNS_KNOWN)
    if flags & ~shape.FLAGS_KNOWN:
        raise shape.wrong_bits("flags", flags, shape.FLAGS_KNOWN)
    _check_number("channel name size", channel_size, 1, shape.CHANNEL_SIZE_MAX)
    _check_number("reserved field", reserved, 0, 0)
    return count, producer, base_sequence, columns, flags, channel_size


def _sequence_range(producer: int, count: int) -> tuple[int, int]:
    """What a base sequence may be; the last message's must be a u64 too."""
    return (1, shape.SEQUENCE_MAX - count + 1) if producer else (0, 0)


def _read_sizes(view: memoryview, part: str, position: int, count: int) -> tuple[tuple[int, ...], int]:
    end = position + _SIZE * count
    if end > len(view):
        raise shape.cut(part, end, len(view))
    return struct.unpack_from(f"<{count}I", view, position), end


def _read_column(view: memoryview, bit: int, start: int, count: int) -> _Column:
    column = shape.COLUMNS[bit]
    if column.width:
        end = start + column.width * count
        if end > len(view):
            raise shape.cut(column.name, end, len(view))
        if column.limit:
            _check_limit(column.name, view[start:end], column.limit)
        return _Column(start, end, None)
    sizes, values_at = _read_sizes(view, column.name, start, count)
    _check_limit(column.name, sizes, column.limit)
    end = values_at + sum(sizes)
    if end > len(view):
        raise shape.cut(column.name, end, len(view))
    if column.text:
        _check_text(column.name, bytes(view[values_at:end]), sizes)
    return _Column(start, end, sizes)


def _check_limit(name: str, values: Sequence[int] | memoryview, limit: int) -> None:
    if max(values) > limit:
        message, value = next((message, value) for message, value in enumerate(values) if value > limit)
        raise shape.value_too_large(name, message, value, limit)


def _check_text(name: str, values: bytes, sizes: tuple[int, ...]) -> None:
    # The values are valid UTF-8 one by one when they are in one piece and none begins within a character.
    try:
        values.decode()
    except UnicodeDecodeError:
        raise shape.column_not_text(name, values, sizes) from None
    if any(values[start : start + 1] and values[start] & 0xC0 == 0x80 for start in accumulate(sizes, initial=0)):
        raise shape.column_not_text(name, values, sizes)


def _channel(name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise shape.channel_not_text(name) from None


def read_batch(
    frame: Buffer, position: int = 0, size: int = -1, *, verify: bool = True, body_size_max: int = shape.BODY_SIZE_MAX
) -> BatchHeader:
    """The header of the batch frame at frame[position : position + size], to the end when `size` is negative.

    Everything but the bodies and the inside of headers is checked; the crc32c too, unless `verify` is False because a
    checksum around it was. Raises MalformedFrame, ChecksumMismatch, or MessageTooLarge when a body has more than
    `body_size_max` bytes or the frame more than 1 MiB above that.
    """
    return _Layout(_part(frame, position, size), verify, body_size_max).header


def decode_batch(frame: Buffer, *, verify: bool = True) -> BatchContents:
    """Take a batch frame apart. Raises what `read_batch` raises."""
    layout = _Layout(_part(frame, 0, -1), verify, shape.BODY_SIZE_MAX)
    bodies = layout.values(layout.bodies_at, layout.body_sizes)
    return BatchContents(layout.header, bodies, layout.column_values(0), layout.column_values(1))


# --- writing ---------------------------------------------------------------------------------------------------------


def slice_batch(frame: Buffer, position: int, size: int, low: int, high: int) -> bytes:
    """A batch frame of the messages low..high-1 (0-based) of the one at frame[position : position + size].

    Producer, columns and flags are kept, the base sequence moves on, the crc32c is fresh; all messages give the frame as it
    is. The old crc32c is not checked. Raises MalformedFrame, or LocalProtocolError when there are no such messages.
    """
    layout = _Layout(_part(frame, position, size), False, shape.BODY_SIZE_MAX)
    header = layout.header
    if not 0 <= low < high <= header.count:
        raise shape.cannot_write("slice", (low, high), f"within 0 to {header.count} and not empty")
    if high - low == header.count:
        return bytes(layout.view)
    parts: list[Buffer] = [_pack_sizes(layout.body_sizes[low:high])]
    for bit, column in layout.columns.items():
        if column.sizes is None:
            width = shape.COLUMNS[bit].width
            parts.append(layout.view[column.start + width * low : column.start + width * high])
        else:
            parts.append(_pack_sizes(column.sizes[low:high]))
            parts.append(_values_slice(layout.view, column.start + _SIZE * header.count, column.sizes, low, high))
    parts.append(_values_slice(layout.view, layout.bodies_at, layout.body_sizes, low, high))
    base_sequence = header.base_sequence + low if header.producer else 0
    return _assemble(header.channel.encode(), high - low, header.producer, base_sequence, header.columns, header.flags, parts)


def _values_slice(view: memoryview, start: int, sizes: tuple[int, ...], low: int, high: int) -> memoryview:
    first = start + sum(sizes[:low])
    return view[first : first + sum(sizes[low:high])]


def encode_batch(
    channel: bytes,
    bodies: Sequence[bytes],
    producer: int = 0,
    base_sequence: int = 0,
    ids: Sequence[bytes] | None = None,
    headers: Sequence[bytes] | None = None,
) -> bytes:
    """A batch frame; `ids` and `headers` have one value per body, empty for none. Raises LocalProtocolError on any limit."""
    _check_channel(channel)
    count = len(bodies)
    if not 1 <= count <= shape.COUNT_MAX:
        raise shape.cannot_write("number of bodies", count, f"1 to {shape.COUNT_MAX}")
    _check_sequence(producer, base_sequence, count)
    body_sizes = _measure("body", bodies, count, shape.BODY_SIZE_MAX)
    parts: list[Buffer] = [_pack_sizes(body_sizes)]
    columns = 0
    if ids is not None:
        columns |= 1
        parts += (_pack_sizes(_measure("id", ids, count, shape.ID_SIZE_MAX)), *ids)
        for message, value in enumerate(ids):
            _check_utf8(f"id of message {message}", value)
    if headers is not None:
        columns |= 2
        parts += (_pack_sizes(_measure("headers", headers, count, shape.HEADERS_SIZE_MAX)), *headers)
    parts += bodies
    size = shape.HEADER_SIZE + len(channel) + sum(map(len, parts))
    limit = shape.BODY_SIZE_MAX + shape.BATCH_MARGIN
    if size > limit:
        raise shape.cannot_write("size of the batch frame", size, f"up to {limit}")
    return _assemble(channel, count, producer, base_sequence, columns, 0, parts)


def _pack_sizes(sizes: Sequence[int]) -> bytes:
    return struct.pack(f"<{len(sizes)}I", *sizes)


def _measure(what: str, values: Sequence[bytes], count: int, limit: int) -> list[int]:
    """The sizes of all values, each of which is bytes and within the limit."""
    if len(values) != count:
        raise shape.cannot_write(f"number of {what} values", len(values), f"{count}, one for each body")
    for message, value in enumerate(values):
        if not isinstance(value, bytes):
            raise shape.cannot_write(f"{what} of message {message}", type(value).__name__, "bytes")
        if len(value) > limit:
            raise shape.cannot_write(f"{what} size of message {message}", len(value), f"up to {limit}")
    return [len(value) for value in values]


def _check_channel(channel: bytes) -> None:
    if not 1 <= len(channel) <= shape.CHANNEL_SIZE_MAX:
        raise shape.cannot_write("channel name size", len(channel), f"1 to {shape.CHANNEL_SIZE_MAX}")
    _check_utf8("channel name", channel)


def _check_utf8(what: str, value: bytes) -> None:
    try:
        value.decode()
    except UnicodeDecodeError:
        raise shape.cannot_write(what, value, "valid UTF-8") from None


def _check_sequence(producer: int, base_sequence: int, count: int) -> None:
    if not 0 <= producer <= shape.SEQUENCE_MAX:
        raise shape.cannot_write("producer", producer, "a u64")
    low, high = _sequence_range(producer, count)
    if not low <= base_sequence <= high:
        raise shape.cannot_write("base sequence", base_sequence, f"{low} to {high}")


def _assemble(
    channel: bytes, count: int, producer: int, base_sequence: int, columns: int, flags: int, parts: Iterable[Buffer]
) -> bytes:
    rest = b"".join((channel, *parts))
    size = shape.HEADER_SIZE + len(rest)
    values = (size, count, producer, base_sequence, columns, flags, len(channel), 0)
    header = _HEADER.pack(shape.BATCH_MAGIC, 0, *values)
    checksum = crc32c(rest, crc32c(header[8:]))
    return _HEADER.pack(shape.BATCH_MAGIC, checksum, *values) + rest


def join_parts(parts: list[bytes], frames: list[int]) -> tuple[bytes, int]:
    """All parts as one, and its crc32c.

    `frames` has the positions in `parts`, ascending, of batch frames that `read_batch` has verified: the bytes of a large one
    need not be read again, since its own checksum tells what they do to that of the whole. Here they are read all the same:
    combining checksums in Python costs more than that.
    """
    assert all(parts[position][:4] == shape.BATCH_MAGIC for position in frames), "a frame is not a batch"
    whole = b"".join(parts)
    return whole, crc32c(whole)
