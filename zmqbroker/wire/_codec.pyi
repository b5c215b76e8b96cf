"""Types of the compiled twin of `_codec_py`, which is ext/_codec.pyx; what its functions do is said there."""

from collections.abc import Sequence

from zmqbroker.commands import BatchHeader
from zmqbroker.wire.batch import BatchContents, Buffer

__all__ = ["crc32c", "crc32c_table", "decode_batch", "encode_batch", "read_batch", "slice_batch"]

def crc32c(data: Buffer, seed: int = 0) -> int: ...
def crc32c_table(data: Buffer, seed: int = 0) -> int: ...
def encode_batch(
    channel: bytes,
    bodies: Sequence[bytes],
    producer: int = 0,
    base_sequence: int = 0,
    ids: Sequence[bytes] | None = None,
    headers: Sequence[bytes] | None = None,
) -> bytes: ...
def read_batch(
    frame: Buffer, position: int = 0, size: int = -1, *, verify: bool = True, body_size_max: int = ...
) -> BatchHeader: ...
def slice_batch(frame: Buffer, position: int, size: int, low: int, high: int) -> bytes: ...
def decode_batch(frame: Buffer, *, verify: bool = True) -> BatchContents: ...
