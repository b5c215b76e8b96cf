"""Bodies as zlib streams (RFC 1950), and the flag that says so (docs/PROTOCOL.md §5)."""

from __future__ import annotations

import random
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.wire.samples import TWINS, batches, hand_made, load
from zmqbroker.errors import LocalProtocolError, UnreadableBody
from zmqbroker.wire.columns import Treatment, add_columns
from zmqbroker.wire.compression import COMPRESSED, compress_bodies, decompress_body, is_compression, mark_compressed

BODIES = st.lists(st.binary(max_size=200) | st.integers(0, 10_000).map(bytes), min_size=1, max_size=8)
NOISE = random.Random(1).randbytes(100)


@given(BODIES)
def test_compressed_bodies_are_zlib_streams_and_smaller_together(bodies: list[bytes]) -> None:
    packed = compress_bodies(bodies)
    if packed is None:
        return
    assert sum(map(len, packed)) < sum(map(len, bodies))
    assert [zlib.decompress(stream) for stream in packed] == bodies
    assert [decompress_body(stream, 10_000) for stream in packed] == bodies


@pytest.mark.parametrize("bodies", [[b""], [NOISE], [b"a", b"b"], [NOISE] * 3])
def test_bodies_that_would_grow_stay_as_they_are(bodies: list[bytes]) -> None:
    assert compress_bodies(bodies) is None


def test_one_body_that_grows_is_compressed_with_its_neighbours() -> None:
    packed = compress_bodies([NOISE, bytes(5_000)])
    assert packed is not None
    assert len(packed[0]) > len(NOISE)
    assert decompress_body(packed[0], 100) == NOISE


@given(st.binary(max_size=60) | st.binary(max_size=60).map(zlib.compress), st.integers(0, 70))
def test_anything_is_decompressed_within_its_bound_or_refused_by_name(data: bytes, size_max: int) -> None:
    try:
        body = decompress_body(data, size_max)
    except UnreadableBody:
        return
    assert len(body) <= size_max
    assert zlib.decompress(data) == body


def test_bound_holds_for_a_small_body_that_would_become_a_huge_one() -> None:
    bomb = zlib.compress(bytes(50 << 20), 9)
    assert len(bomb) < 60_000
    with pytest.raises(UnreadableBody, match="it holds more than 1000 bytes"):
        decompress_body(bomb, 1_000)
    assert len(decompress_body(bomb, 50 << 20)) == 50 << 20


@pytest.mark.parametrize("body", [zlib.compress(b"abc")[2:-4], zlib.compress(b"abc")[:-4] + b"\0\0\0\0", b"\x1f\x8b\x08"])
def test_other_formats_and_damage_are_no_zlib_stream(body: bytes) -> None:
    with pytest.raises(UnreadableBody, match="it is no zlib stream"):
        decompress_body(body, 1_000)


@pytest.mark.parametrize("twin", TWINS)
@given(arguments=batches())
def test_marked_frame_is_the_same_batch_with_the_flag(twin: str, arguments: dict[str, Any]) -> None:
    codec = load(twin)
    frame = codec.encode_batch(**arguments)
    marked = mark_compressed(frame)
    assert mark_compressed(marked) == marked
    before, after = codec.decode_batch(frame), codec.decode_batch(marked)
    assert (after.header.flags, before.header.flags) == (COMPRESSED, 0)
    assert after[1:] == before[1:]


def test_flag_stays_when_columns_are_added() -> None:
    codec = load(TWINS[0])
    marked = add_columns(mark_compressed(codec.encode_batch(b"q", [b"a"])), 1, [Treatment(5, 0, 0)])
    assert codec.decode_batch(marked).header.flags == COMPRESSED


def test_mark_of_a_hand_made_frame_is_the_frame_made_with_the_flag() -> None:
    assert mark_compressed(hand_made()) == hand_made(flags=1)


def test_only_known_compressions_are_taken() -> None:
    assert (is_compression(None), is_compression("zlib")) == (False, True)
    for wrong in ("gzip", "", True, 1):
        with pytest.raises(LocalProtocolError, match=r"compression is .*, allowed is 'zlib' or None"):
            is_compression(wrong)  # type: ignore[arg-type]
