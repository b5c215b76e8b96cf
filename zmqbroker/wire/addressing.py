"""A batch frame for another channel: the same messages under another name. Source: docs/PROTOCOL.md §5."""

from __future__ import annotations

import struct

from zmqbroker.commands import BatchHeader
from zmqbroker.wire.batch import HEADER_SIZE
from zmqbroker.wire.codec import crc32c

__all__ = ["addressed"]

_U32, _U16 = struct.Struct("<I"), struct.Struct("<H")
#: Offsets of the checksum, of the size of the frame, and of the size of the name.
_CRC_AT, _SIZE_AT, _NAME_SIZE_AT = 4, 8, 36


def addressed(frame: bytes, header: BatchHeader, channel: str) -> bytes:
    """The frame with this header as one for `channel`, whose name keeps the rules for names; bodies are copied, never read."""
    name = channel.encode()
    rest = HEADER_SIZE + len(header.channel.encode())
    made = bytearray(b"".join((frame[:HEADER_SIZE], name, memoryview(frame)[rest:])))
    _U32.pack_into(made, _SIZE_AT, len(made))
    _U16.pack_into(made, _NAME_SIZE_AT, len(name))
    _U32.pack_into(made, _CRC_AT, crc32c(memoryview(made)[_SIZE_AT:]))
    return bytes(made)
