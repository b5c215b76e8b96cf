"""The columns of a batch that say how its messages are to be treated: delay, expiry, priority, group. Neither twin of the codec
makes or reads them: few batches have them, and then they cost a pass in Python per batch. The ids are read when somebody looks
at them, which only a channel with a window for duplicates does.

A batch that `codec.read_batch` accepted is taken for granted here. Source: docs/PROTOCOL.md §5.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, groupby, pairwise, repeat
from typing import Any, NamedTuple, overload

from zmqbroker.commands import BatchHeader, Run
from zmqbroker.errors import LocalProtocolError
from zmqbroker.wire.batch import COLUMNS, HEADER_SIZE, SEQUENCE_MAX, Buffer
from zmqbroker.wire.codec import crc32c

__all__ = ["NO_TREATMENT", "IdColumn", "Treatment", "add_columns", "read_groups", "read_ids", "read_runs"]

DELAY, EXPIRY, PRIORITY, GROUP = range(2, 6)
#: Bit set of the columns that make runs.
TREATED = 1 << DELAY | 1 << EXPIRY | 1 << PRIORITY | 1 << GROUP
PRIORITY_MAX, GROUP_SIZE_MAX = COLUMNS[PRIORITY].limit, COLUMNS[GROUP].limit

_SIZE_AT, _COLUMNS_AT, _CRC_AT = 8, 32, 4
_U16, _U32 = struct.Struct("<H"), struct.Struct("<I")


class Treatment(NamedTuple):
    """How one message is to be treated; zeros and "" say nothing."""

    delay_ms: int = 0
    expiry_ms: int = 0
    priority: int = 0
    group: str = ""


NO_TREATMENT = Treatment()


def read_runs(data: Buffer, position: int, header: BatchHeader) -> tuple[Run, ...]:
    """The runs of the batch whose frame begins at data[position]; none when its columns say nothing about treatment."""
    if not header.columns & TREATED:
        return ()
    count, columns = header.count, header.columns
    at = _start_of(data, position, header, DELAY)
    values: list[Iterable[Any]] = []
    for bit, form in ((DELAY, "Q"), (EXPIRY, "Q"), (PRIORITY, "B")):
        if columns >> bit & 1:
            values.append(struct.unpack_from(f"<{count}{form}", data, at))
            at += COLUMNS[bit].width * count
        else:
            values.append(repeat(0, count))
    if columns >> GROUP & 1:
        values.append(_texts(data, at, count))
    return tuple(Run(len(list(run)), *treatment) for treatment, run in groupby(zip(*values, strict=True)))


def read_groups(data: Buffer, header: BatchHeader) -> list[str] | None:
    """The group of each message of a batch frame, "" for none; None when no message has one."""
    if not header.columns >> GROUP & 1:
        return None
    return _texts(data, _start_of(data, 0, header, GROUP), header.count)


def _start_of(data: Buffer, position: int, header: BatchHeader, column: int) -> int:
    """Where a column lies, or would lie."""
    count = header.count
    at = position + HEADER_SIZE + len(header.channel.encode()) + 4 * count
    for bit in range(column):
        if header.columns >> bit & 1:
            at += COLUMNS[bit].width * count or 4 * count + sum(struct.unpack_from(f"<{count}I", data, at))
    return at


def _texts(data: Buffer, at: int, count: int) -> list[str]:
    """The values of a text column that begins at data[at]."""
    sizes = struct.unpack_from(f"<{count}I", data, at)
    return [str(data[low:high], "utf-8") for low, high in pairwise(accumulate(sizes, initial=at + 4 * count))]


class IdColumn(Sequence[bytes]):
    """The ids of a batch: bytes of its frame until they are asked for. Equal to any sequence of the same ids."""

    __slots__ = ("_at", "_count", "_data", "_ids")

    def __init__(self, data: Buffer, position: int, count: int) -> None:
        self._data, self._at, self._count = data, position, count  # where the column begins
        self._ids: list[bytes] | None = None  # once they have been asked for

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, at: int) -> bytes: ...
    @overload
    def __getitem__(self, at: slice) -> list[bytes]: ...
    def __getitem__(self, at: int | slice) -> bytes | list[bytes]:
        return self._read()[at]

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._read())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"IdColumn({self._read()!r})"

    def _read(self) -> list[bytes]:
        if self._ids is None:
            sizes = struct.unpack_from(f"<{self._count}I", self._data, self._at)
            ends = list(accumulate(sizes, initial=self._at + 4 * self._count))
            self._ids = [bytes(self._data[low:high]) for low, high in pairwise(ends)]
        return self._ids


def read_ids(data: Buffer, position: int, header: BatchHeader) -> Sequence[bytes]:
    """The ids of the batch whose frame begins at data[position]; none when it has no such column."""
    if not header.columns & 1:
        return ()
    return IdColumn(data, position + HEADER_SIZE + len(header.channel.encode()) + 4 * header.count, header.count)


def add_columns(frame: bytes, body_bytes: int, treatments: Sequence[Treatment]) -> bytes:
    """The batch frame with a column for everything that is said, one treatment a message; as it is when nothing is.

    It has no column behind its headers yet. Raises LocalProtocolError for a value out of its range.
    """
    parts: list[bytes] = []
    columns, size = _U16.unpack_from(frame, _COLUMNS_AT)[0], len(frame)
    for bit, form, high in ((DELAY, "Q", SEQUENCE_MAX), (EXPIRY, "Q", SEQUENCE_MAX), (PRIORITY, "B", PRIORITY_MAX)):
        values: list[int] = [treatment[bit - DELAY] for treatment in treatments]  # type: ignore[misc]
        if not any(values):
            continue
        _check_range(COLUMNS[bit].name, values, high)
        parts.append(struct.pack(f"<{len(values)}{form}", *values))
        columns |= 1 << bit
    groups = [treatment.group.encode() for treatment in treatments]
    if any(groups):
        sizes = list(map(len, groups))
        _check_range("size of a group", sizes, GROUP_SIZE_MAX)
        parts += (struct.pack(f"<{len(sizes)}I", *sizes), *groups)
        columns |= 1 << GROUP
    if not parts:
        return frame
    made = bytearray(b"".join((frame[: size - body_bytes], *parts, frame[size - body_bytes :])))
    _U32.pack_into(made, _SIZE_AT, len(made))
    _U16.pack_into(made, _COLUMNS_AT, columns)
    _U32.pack_into(made, _CRC_AT, crc32c(memoryview(made)[_SIZE_AT:]))
    return bytes(made)


def _check_range(name: str, values: list[int], high: int) -> None:
    if not 0 <= min(values) <= max(values) <= high:
        wrong = next(value for value in values if not 0 <= value <= high)
        raise LocalProtocolError(f"{name} is {wrong}, allowed is 0 to {high}")
