"""The columns of a batch that say how its messages are to be treated: delay, expiry, priority. Neither twin of the codec makes
or reads them: few batches have them, and then they cost a pass in Python per batch.

A batch that `codec.read_batch` accepted is taken for granted here. Source: docs/PROTOCOL.md §5.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from itertools import groupby, repeat
from typing import NamedTuple

from zmqbroker.commands import BatchHeader, Run
from zmqbroker.errors import LocalProtocolError
from zmqbroker.wire.batch import COLUMNS, HEADER_SIZE, SEQUENCE_MAX, Buffer
from zmqbroker.wire.codec import crc32c

__all__ = ["NO_TREATMENT", "Treatment", "add_columns", "read_runs"]

ID, HEADERS, DELAY, EXPIRY, PRIORITY = range(5)
#: Bit set of the columns that make runs.
TREATED = 1 << DELAY | 1 << EXPIRY | 1 << PRIORITY
PRIORITY_MAX = COLUMNS[PRIORITY].limit

_SIZE_AT, _COLUMNS_AT, _CRC_AT = 8, 32, 4
_U16, _U32 = struct.Struct("<H"), struct.Struct("<I")


class Treatment(NamedTuple):
    """How one message is to be treated; zeros say nothing."""

    delay_ms: int = 0
    expiry_ms: int = 0
    priority: int = 0


NO_TREATMENT = Treatment()


def read_runs(data: Buffer, position: int, header: BatchHeader) -> tuple[Run, ...]:
    """The runs of the batch whose frame begins at data[position]; none when its columns say nothing about treatment."""
    if not header.columns & TREATED:
        return ()
    count, columns = header.count, header.columns
    at = position + HEADER_SIZE + len(header.channel.encode()) + 4 * count
    for bit in (ID, HEADERS):
        if columns >> bit & 1:
            at += 4 * count + sum(struct.unpack_from(f"<{count}I", data, at))
    values: list[Iterable[int]] = []
    for bit, form in ((DELAY, "Q"), (EXPIRY, "Q"), (PRIORITY, "B")):
        if columns >> bit & 1:
            values.append(struct.unpack_from(f"<{count}{form}", data, at))
            at += COLUMNS[bit].width * count
        else:
            values.append(repeat(0, count))
    return tuple(Run(len(list(run)), *treatment) for treatment, run in groupby(zip(*values, strict=True)))


def add_columns(frame: bytes, body_bytes: int, treatments: Sequence[Treatment]) -> bytes:
    """The batch frame with a column for everything that is said, one treatment a message; as it is when nothing is.

    It has no column behind its headers yet. Raises LocalProtocolError for a value out of its range.
    """
    parts: list[bytes] = []
    columns, size = _U16.unpack_from(frame, _COLUMNS_AT)[0], len(frame)
    for bit, form, high in ((DELAY, "Q", SEQUENCE_MAX), (EXPIRY, "Q", SEQUENCE_MAX), (PRIORITY, "B", PRIORITY_MAX)):
        values = [treatment[bit - DELAY] for treatment in treatments]
        if not any(values):
            continue
        if not 0 <= min(values) <= max(values) <= high:
            wrong = next(value for value in values if not 0 <= value <= high)
            raise LocalProtocolError(f"{COLUMNS[bit].name} is {wrong}, allowed is 0 to {high}")
        parts.append(struct.pack(f"<{len(values)}{form}", *values))
        columns |= 1 << bit
    if not parts:
        return frame
    made = bytearray(b"".join((frame[: size - body_bytes], *parts, frame[size - body_bytes :])))
    _U32.pack_into(made, _SIZE_AT, len(made))
    _U16.pack_into(made, _COLUMNS_AT, columns)
    _U32.pack_into(made, _CRC_AT, crc32c(memoryview(made)[_SIZE_AT:]))
    return bytes(made)
