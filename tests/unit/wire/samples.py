"""What the wire tests share: both codecs, batches built by hand with struct alone, hypothesis strategies, and damage."""

from __future__ import annotations

import importlib
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import crc32c as reference
import pytest
from hypothesis import strategies as st

from zmqbroker.commands import BatchHeader
from zmqbroker.wire import _codec_py
from zmqbroker.wire.batch import BatchContents, Buffer

__all__ = ["TWINS", "Codec", "batches", "damaged", "hand_made", "load_compiled", "outcome", "resealed"]


class Codec(Protocol):
    """What either twin offers, as a module."""

    def crc32c(self, data: Buffer, seed: int = 0) -> int:
        """See `_codec_py`."""
        ...

    def encode_batch(
        self,
        channel: bytes,
        bodies: Sequence[bytes],
        producer: int = 0,
        base_sequence: int = 0,
        ids: Sequence[bytes] | None = None,
        headers: Sequence[bytes] | None = None,
    ) -> bytes:
        """See `_codec_py`."""
        ...

    def read_batch(
        self, frame: Buffer, position: int = 0, size: int = -1, *, verify: bool = True, body_size_max: int = 64 << 20
    ) -> BatchHeader:
        """See `_codec_py`."""
        ...

    def slice_batch(self, frame: Buffer, position: int, size: int, low: int, high: int) -> bytes:
        """See `_codec_py`."""
        ...

    def decode_batch(self, frame: Buffer, *, verify: bool = True) -> BatchContents:
        """See `_codec_py`."""
        ...


def load_compiled(name: str = "_codec") -> Any:
    """A compiled twin; the test is skipped where it was not built."""
    try:
        return importlib.import_module(f"zmqbroker.wire.{name}")
    except ImportError as error:
        pytest.skip(f"the compiled {name} is not built here: {error}")


#: Parameters for tests that both twins have to pass.
TWINS = ("python", "compiled")


def load(twin: str) -> Codec:
    """The codec called so."""
    codec: Codec = load_compiled() if twin == "compiled" else _codec_py
    return codec


def hand_made(
    *,
    magic: bytes = b"ZBB1",
    count: int = 2,
    producer: int = 0,
    base_sequence: int = 0,
    columns: int = 0,
    flags: int = 0,
    channel: bytes = b"q",
    channel_size: int | None = None,
    reserved: int = 0,
    rest: bytes = b"\x01\0\0\0\x02\0\0\0" + b"abb",
) -> bytes:
    """A batch frame written down as docs/PROTOCOL.md says, with correct size and checksum and any content."""
    size_field = len(channel) if channel_size is None else channel_size
    tail = struct.pack("<IQQHHHH", count, producer, base_sequence, columns, flags, size_field, reserved) + channel + rest
    return resealed(magic + bytes(4) + struct.pack("<I", 12 + len(tail)) + tail)


def resealed(frame: bytes) -> bytes:
    """The frame with the checksum that fits its bytes."""
    return frame[:4] + struct.pack("<I", reference.crc32c(frame[8:])) + frame[8:]


def damaged(frame: bytes) -> Iterator[bytes]:
    """Every truncation of a frame, and every byte of it changed in three ways."""
    for size in range(len(frame)):
        yield frame[:size]
    for position in range(len(frame)):
        for change in (0x01, 0x80, 0xFF):
            yield frame[:position] + bytes([frame[position] ^ change]) + frame[position + 1 :]


def outcome(function: Callable[..., object], *arguments: Any, **options: Any) -> object:
    """What a call returns, or the class, text and fields of what it raises."""
    try:
        return function(*arguments, **options)
    except Exception as error:
        return type(error), str(error), getattr(error, "fields", None)


@st.composite
def batches(draw: st.DrawFn) -> dict[str, Any]:
    """Arguments of `encode_batch` that are all within the limits."""
    bodies = draw(st.lists(st.binary(max_size=20), min_size=1, max_size=8))
    count = len(bodies)
    producer = draw(st.just(0) | st.integers(1, 2**64 - 1))
    ids = st.lists(st.text(st.characters(codec="utf-8"), max_size=5).map(str.encode), min_size=count, max_size=count)
    headers = st.lists(st.binary(max_size=9), min_size=count, max_size=count)
    return {
        "channel": draw(st.text(st.characters(codec="utf-8"), min_size=1, max_size=20).map(str.encode)),
        "bodies": bodies,
        "producer": producer,
        "base_sequence": draw(st.integers(1, 2**64 - count)) if producer else 0,
        "ids": draw(st.none() | ids),
        "headers": draw(st.none() | headers),
    }
