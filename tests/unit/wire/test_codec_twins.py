"""The compiled codec against the Python one, in one process: same bytes, same values, same errors with the same words."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.wire.samples import batches, damaged, hand_made, load_compiled, outcome, resealed
from tests.unit.wire.test_batch_codec import ALL_COLUMNS
from zmqbroker.errors import ChecksumMismatch, LocalProtocolError, MalformedFrame, MessageTooLarge
from zmqbroker.wire import _codec_py as python

NAMED = (MalformedFrame, ChecksumMismatch, MessageTooLarge)

SAMPLES = {
    "plain": hand_made(),
    "ids and headers": python.encode_batch(
        "käse".encode(), [b"a", b"", b"ccc"], 5, 6, ["é".encode(), b"", b"x"], [b"\x80", b"", b""]
    ),
    "every column": hand_made(columns=0x7F, flags=1, producer=1, base_sequence=2, rest=b"".join(ALL_COLUMNS)),
}


@pytest.fixture(scope="module")
def compiled() -> Any:
    return load_compiled()


def check_alike(compiled: Any, frame: bytes) -> None:
    """Both twins read, decode and slice `frame` with the same outcome, which is a value or a named error."""
    for name, arguments, options in (
        ("read_batch", (frame,), {}),
        ("read_batch", (frame,), {"verify": False, "body_size_max": 2}),
        ("decode_batch", (frame,), {"verify": False}),
        ("slice_batch", (frame, 0, -1, 1, 2), {}),
    ):
        expected = outcome(getattr(python, name), *arguments, **options)
        assert outcome(getattr(compiled, name), *arguments, **options) == expected
        if isinstance(expected, tuple) and isinstance(expected[0], type):
            assert issubclass(expected[0], (*NAMED, LocalProtocolError))


@pytest.mark.parametrize("sample", SAMPLES.values(), ids=SAMPLES)
def test_twins_damaged_sample_gives_equal_errors(compiled: Any, sample: bytes) -> None:
    refused = 0
    for frame in damaged(sample):
        check_alike(compiled, frame)
        with pytest.raises(NAMED):
            python.read_batch(frame)
        refused += 1
        if len(frame) >= 8:
            check_alike(compiled, resealed(frame))
    assert refused == 4 * len(sample)


@given(seed=st.integers(0, 2**32))
def test_twins_random_damage_under_a_valid_checksum_gives_equal_outcomes(compiled: Any, seed: int) -> None:
    chance = random.Random(seed)
    frame = bytearray(chance.choice(list(SAMPLES.values())))
    for _ in range(chance.randint(1, 4)):
        frame[chance.randrange(12, len(frame))] = chance.choice((0, 1, 2, 0x7F, 0x80, 0xFF))
    check_alike(compiled, resealed(bytes(frame)))


@given(frame=st.binary(max_size=80))
def test_twins_arbitrary_bytes_give_equal_named_errors(compiled: Any, frame: bytes) -> None:
    check_alike(compiled, frame)
    check_alike(compiled, resealed(b"ZBB1" + bytes(4) + (12 + len(frame)).to_bytes(4, "little") + frame))


@given(arguments=batches())
def test_twins_same_arguments_give_equal_bytes(compiled: Any, arguments: dict[str, Any]) -> None:
    frame = python.encode_batch(**arguments)
    assert compiled.encode_batch(**arguments) == frame
    check_alike(compiled, frame)


@given(data=st.binary(max_size=300), seed=st.integers(0, 2**32 - 1))
def test_twins_checksums_are_equal_with_and_without_the_instruction(compiled: Any, data: bytes, seed: int) -> None:
    expected = python.crc32c(data, seed)
    assert compiled.crc32c(data, seed) == expected
    assert compiled.crc32c_table(data, seed) == expected


@pytest.mark.parametrize("size", [767, 768, 775, 2 * 768 + 9, 3071, 3072, 3073, 3072 + 768 + 7, 3 * 3072 + 1])
def test_twins_checksums_are_equal_around_the_lanes_of_the_instruction(compiled: Any, size: int) -> None:
    """Three lanes of 256 bytes, or of 1024: a block more, a block less, and what is left behind one."""
    data = random.Random(size).randbytes(size + 1)
    for start in (0, 1):  # one of them is not aligned
        piece = memoryview(data)[start : start + size]
        assert compiled.crc32c(piece, 7) == compiled.crc32c_table(piece, 7) == python.crc32c(piece, 7)


@given(seed=st.integers(0, 2**32))
def test_twins_join_parts_and_checksums_alike(compiled: Any, seed: int) -> None:
    """Frames on both sides of the size from which the compiled one combines checksums and reads no bodies."""
    chance = random.Random(seed)
    parts, frames = [b"head"], []
    for _ in range(chance.randrange(5)):
        parts.append(chance.randbytes(chance.randrange(20)))
        body = chance.randbytes(chance.choice((0, 10, 4000, 4040, 4051, 4052, 5000, 70_000)))
        frames.append(len(parts))
        parts.append(python.encode_batch(b"q", [body]))
    whole, checksum = python.join_parts(parts, frames)
    assert whole == b"".join(parts)
    assert checksum == python.crc32c(whole)
    assert compiled.join_parts(parts, frames) == (whole, checksum)


def test_twins_a_large_frame_is_not_read_for_the_checksum_of_the_whole(compiled: Any) -> None:
    frame = bytearray(python.encode_batch(b"q", [bytes(5000)]))
    sound = python.join_parts([b"head", bytes(frame)], [1])[1]
    frame[-1] ^= 1
    assert compiled.join_parts([b"head", bytes(frame)], [1])[1] == sound
    assert compiled.join_parts([b"head", bytes(frame)], [])[1] != sound


@pytest.mark.parametrize("parts", [["text"], [b"", None]])
def test_join_parts_takes_bytes_only(compiled: Any, parts: list[Any]) -> None:
    for codec in (python, compiled):
        with pytest.raises(TypeError):
            codec.join_parts(parts, [])


def test_join_parts_a_frame_that_is_no_batch_is_a_bug(compiled: Any) -> None:
    for codec in (python, compiled):
        with pytest.raises(AssertionError, match="a frame is not a batch"):
            codec.join_parts([b"head", bytes(5000)], [1])


def test_twins_export_the_same_functions(compiled: Any) -> None:
    assert set(compiled.__all__) - {"crc32c_table"} == set(python.__all__)
