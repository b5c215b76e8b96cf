"""The bytes of one log record in Python: the reference, and the twin of the compiled ext/_record.pyx.

It turns numbers and a payload into buffers and looks for sectors of zeros; what the numbers mean, and what is done about such a
sector, is `record`'s. Source: docs/STORAGE.md §5.
"""

from __future__ import annotations

import struct

from zmqbroker.checksum import crc32c

__all__ = ["ALIGNMENT", "FLAG_MASKED", "HEADER", "MAGIC", "SECTOR_SIZE", "encode_record", "has_zero_sector"]

#: Records start at multiples of this, so that a scan past damage may step by it.
ALIGNMENT = 8
#: The unit that a disk writes whole or not at all.
SECTOR_SIZE = 512
#: Set in the flags when the payload was XORed with the segment's pattern, because one of its sectors would have been all zeros.
FLAG_MASKED = 0x01
#: "ZBCR" as it lies in the file.
MAGIC = 0x5243425A
#: magic, payload size, type, flags, group, previous_crc, entry_index, term, lsn, synced_lsn, payload_crc, header_crc
HEADER = struct.Struct("<IIBBHIQQQQII")

_CHECKED_SIZE = 52  # header_crc covers the bytes before itself
_CRC = struct.Struct("<I")


def encode_record(
    payload: bytes,
    payload_crc: int | None,
    position: int,
    seed: int,
    kind: int,
    flags: int,
    group: int,
    previous_crc: int,
    index: int,
    term: int,
    lsn: int,
    synced_lsn: int,
) -> tuple[list[bytes], int] | None:
    """A record at offset `position` of its segment, as buffers to write one after the other, and its header_crc.

    None when a sector of the payload would be all zeros there, and it is not masked: then it must be. The payload is not
    copied, and not read for its crc32c when `payload_crc` tells it. `seed` is the crc32c of the segment's uuid.
    """
    if not flags & FLAG_MASKED and has_zero_sector(payload, position + HEADER.size):
        return None
    if payload_crc is None:
        payload_crc = crc32c(payload)
    fields = (MAGIC, len(payload), kind, flags, group, previous_crc, index, term, lsn, synced_lsn, payload_crc, 0)
    header = HEADER.pack(*fields)[:_CHECKED_SIZE]
    header_crc = crc32c(header, seed)
    buffers = [header + _CRC.pack(header_crc)]
    if payload:
        buffers.append(payload)
    padding = -(HEADER.size + len(payload)) % ALIGNMENT
    if padding:
        buffers.append(bytes(padding))
    return buffers, header_crc


def has_zero_sector(data: bytes, position: int) -> bool:
    """True when all bytes of `data` in some sector of the file are zero, `data` lying at offset `position` of it."""
    size = len(data)
    head = min(-position % SECTOR_SIZE, size)
    if head and data.count(0, 0, head) == head:
        return True
    tail = (size - head) % SECTOR_SIZE
    if tail and data.count(0, size - tail) == tail:
        return True
    zeros = bytes(SECTOR_SIZE)
    if data.find(zeros, head) < 0:
        return False
    return any(data.startswith(zeros, start) for start in range(head, size - tail, SECTOR_SIZE))
