"""The same batch under another channel name. The frame was read before (`codec.read_batch`). Source: docs/PROTOCOL.md §5."""

from __future__ import annotations

import struct

from zmqbroker.wire.batch import BATCH_MAGIC, HEADER_SIZE, Buffer
from zmqbroker.wire.codec import crc32c

__all__ = ["rename_batch"]

#: Where the size of the frame and that of the channel name are.
_SIZE_AT, _NAME_SIZE_AT = 8, 36


def rename_batch(frame: Buffer, channel: bytes) -> bytes:
    """A batch frame that differs in its channel name, and therefore in size and checksum."""
    view = memoryview(frame)
    (old_size,) = struct.unpack_from("<H", view, _NAME_SIZE_AT)
    head = bytearray(view[:HEADER_SIZE])
    struct.pack_into("<I", head, _SIZE_AT, len(view) - old_size + len(channel))
    struct.pack_into("<H", head, _NAME_SIZE_AT, len(channel))
    rest = b"".join((head[_SIZE_AT:], channel, view[HEADER_SIZE + old_size :]))
    return BATCH_MAGIC + struct.pack("<I", crc32c(rest)) + rest
