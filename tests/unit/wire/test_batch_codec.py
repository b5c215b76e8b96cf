"""The batch codec, twin by twin, against docs/PROTOCOL.md §5."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.wire.samples import TWINS, Codec, batches, hand_made, load, resealed
from zmqbroker.commands import BatchHeader
from zmqbroker.errors import ChecksumMismatch, LocalProtocolError, MalformedFrame, MessageTooLarge

MIB = 1 << 20


@pytest.fixture(params=TWINS, scope="module")
def codec(request: pytest.FixtureRequest) -> Codec:
    return load(request.param)


def u32(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}I", *values)


def test_crc32c_known_vectors_match(codec: Codec) -> None:
    # RFC 3720 (iSCSI), appendix B.4, and the check value of the catalogues.
    assert codec.crc32c(bytes(32)) == 0x8A9136AA
    assert codec.crc32c(b"\xff" * 32) == 0x62A8AB43
    assert codec.crc32c(bytes(range(32))) == 0x46DD794E
    assert codec.crc32c(b"123456789") == 0xE3069283
    assert codec.crc32c(b"") == 0


@given(data=st.binary(max_size=100), cut=st.integers(0, 100))
def test_crc32c_seed_continues_a_checksum(codec: Codec, data: bytes, cut: int) -> None:
    assert codec.crc32c(memoryview(data)[cut:], codec.crc32c(data[:cut])) == codec.crc32c(bytearray(data))


def test_encode_plain_batch_gives_the_bytes_of_the_protocol(codec: Codec) -> None:
    assert codec.encode_batch(b"q", [b"a", b"bb"]) == hand_made()


def test_encode_all_parts_gives_the_bytes_of_the_protocol(codec: Codec) -> None:
    frame = codec.encode_batch(b"orders", [b"a", b"bb"], 7, 9, [b"", b"id"], [b"\x80", b""])
    rest = u32(1, 2) + u32(0, 2) + b"id" + u32(1, 0) + b"\x80" + b"abb"
    assert frame == hand_made(channel=b"orders", producer=7, base_sequence=9, columns=3, rest=rest)


@given(arguments=batches())
def test_batch_encoded_and_decoded_is_the_same(codec: Codec, arguments: dict[str, Any]) -> None:
    frame = codec.encode_batch(**arguments)
    contents = codec.decode_batch(memoryview(frame))
    sizes = list(map(len, arguments["bodies"]))
    columns = (arguments["ids"] is not None) + 2 * (arguments["headers"] is not None)
    assert contents.header == BatchHeader(
        arguments["channel"].decode(),
        arguments["producer"],
        arguments["base_sequence"],
        len(sizes),
        sum(sizes),
        max(sizes),
        columns,
        0,
    )
    assert contents[1:] == (arguments["bodies"], arguments["ids"], arguments["headers"])
    assert codec.read_batch(frame) == contents.header
    inside = b"before" + frame + b"after"
    assert codec.read_batch(inside, 6, len(frame)) == contents.header


# The columns that this codec does not make: delay, expiry, priority, group and key of two messages, and a compressed flag.
ALL_COLUMNS = (
    *(u32(1, 2), u32(0, 2), b"id", u32(1, 0), b"\x80", struct.pack("<QQ", 5, 6), struct.pack("<QQ", 7, 8), b"\x09\x00"),
    *(u32(2, 0), "é".encode(), u32(0, 1), b"k", b"abb"),
)


def test_read_every_column_and_flag_is_accepted_and_reported(codec: Codec) -> None:
    frame = hand_made(columns=0x7F, flags=1, rest=b"".join(ALL_COLUMNS))
    header = codec.read_batch(frame)
    assert (header.columns, header.flags, header.body_bytes, header.body_size_max) == (0x7F, 1, 3, 2)
    assert codec.decode_batch(frame)[1:] == ([b"a", b"bb"], [b"", b"id"], [b"\x80", b""])


def test_slice_every_column_is_cut_alike(codec: Codec) -> None:
    frame = hand_made(columns=0x7F, flags=1, producer=3, base_sequence=10, rest=b"".join(ALL_COLUMNS))
    first = (u32(1), u32(0), u32(1), b"\x80", struct.pack("<Q", 5), struct.pack("<Q", 7), b"\x09", u32(2), "é".encode(), u32(0))
    second = (u32(2), u32(2), b"id", u32(0), struct.pack("<Q", 6), struct.pack("<Q", 8), b"\x00", u32(0), u32(1), b"k")
    common: dict[str, Any] = {"columns": 0x7F, "flags": 1, "producer": 3, "count": 1}
    assert codec.slice_batch(frame, 0, -1, 0, 1) == hand_made(**common, base_sequence=10, rest=b"".join((*first, b"a")))
    assert codec.slice_batch(frame, 0, -1, 1, 2) == hand_made(**common, base_sequence=11, rest=b"".join((*second, b"bb")))


@given(arguments=batches(), data=st.data())
def test_slice_is_the_encoding_of_the_sliced_lists(codec: Codec, arguments: dict[str, Any], data: st.DataObject) -> None:
    count = len(arguments["bodies"])
    low = data.draw(st.integers(0, count - 1))
    high = data.draw(st.integers(low + 1, count))
    expected = dict(arguments, bodies=arguments["bodies"][low:high])
    for column in ("ids", "headers"):
        expected[column] = None if arguments[column] is None else arguments[column][low:high]
    expected["base_sequence"] = arguments["base_sequence"] + low if arguments["producer"] else 0
    frame = codec.encode_batch(**arguments)
    assert codec.slice_batch(b"before" + frame + b"after", 6, len(frame), low, high) == codec.encode_batch(**expected)


@pytest.mark.parametrize(("low", "high"), [(0, 0), (1, 1), (2, 1), (-1, 1), (0, 3), (2, 3)])
def test_slice_of_no_such_messages_is_refused(codec: Codec, low: int, high: int) -> None:
    with pytest.raises(LocalProtocolError, match=rf"slice is \({low}, {high}\), allowed is within 0 to 2"):
        codec.slice_batch(hand_made(), 0, -1, low, high)


def test_slice_of_a_damaged_frame_is_refused(codec: Codec) -> None:
    with pytest.raises(MalformedFrame, match="bodies of a batch end at offset 52, the frame has 53"):
        codec.slice_batch(hand_made(rest=u32(1, 2) + b"abb."), 0, -1, 0, 1)
    with pytest.raises(MalformedFrame, match="channel name b'\\\\xff' of a batch is not valid UTF-8"):
        codec.slice_batch(hand_made(channel=b"\xff"), 0, -1, 0, 1)


FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"magic": b"ZBB2"}, "a batch frame begins with b'ZBB2' and not with b'ZBB1'"),
    ({"count": 0}, "count of a batch is 0, allowed is 1 to 65535"),
    ({"count": 65_536}, "count of a batch is 65536, allowed is 1 to 65535"),
    ({"base_sequence": 1}, "base sequence of a batch is 1, allowed is 0 to 0"),
    ({"producer": 1}, f"base sequence of a batch is 0, allowed is 1 to {2**64 - 2}"),
    ({"producer": 1, "base_sequence": 2**64 - 1}, f"base sequence of a batch is {2**64 - 1}, allowed is 1 to {2**64 - 2}"),
    ({"columns": 0x80}, "columns of a batch are 0x0080, defined are 0x007f"),
    ({"columns": 0x8001}, "columns of a batch are 0x8001, defined are 0x007f"),
    ({"flags": 2}, "flags of a batch are 0x0002, defined are 0x0001"),
    ({"channel": b""}, "channel name size of a batch is 0, allowed is 1 to 255"),
    ({"channel": b"c" * 256}, "channel name size of a batch is 256, allowed is 1 to 255"),
    ({"reserved": 1}, "reserved field of a batch is 1, allowed is 0 to 0"),
    ({"channel": b"\xc3"}, "channel name b'\\xc3' of a batch is not valid UTF-8"),
    ({"channel_size": 255}, "body sizes of a batch end at offset 303, beyond its 52 bytes"),
    ({"rest": u32(1) + b"abb"}, "body sizes of a batch end at offset 49, beyond its 48 bytes"),
    ({"rest": u32(1, 2) + b"ab"}, "bodies of a batch end at offset 52, the frame has 51 bytes"),
    ({"rest": u32(1, 2**32 - 1) + b"abb"}, "bodies of a batch end at offset 4294967345, the frame has 52 bytes"),
    ({"columns": 1, "rest": u32(0, 0, 0)}, "id of a batch end at offset 57, beyond its 53 bytes"),
    ({"columns": 1, "rest": u32(0, 0, 0, 2) + b"i"}, "id of a batch end at offset 59, beyond its 58 bytes"),
    ({"columns": 1, "rest": u32(0, 0, 0, 256) + bytes(256)}, "id of message 1 in a batch is 256, the limit is 255"),
    ({"columns": 1, "rest": u32(0, 0, 1, 1) + b"a\xff"}, "id of message 1 in a batch is not valid UTF-8"),
    ({"columns": 1, "rest": u32(0, 0, 1, 1) + "é".encode()}, "id of message 0 in a batch is not valid UTF-8"),
    ({"columns": 2, "rest": u32(0, 0, 65_536, 0)}, "headers of message 0 in a batch is 65536, the limit is 65535"),
    ({"columns": 4, "rest": u32(0, 0) + bytes(15)}, "delay_ms of a batch end at offset 65, beyond its 64 bytes"),
    ({"columns": 8, "rest": u32(0, 0) + bytes(15)}, "expiry_ms of a batch end at offset 65, beyond its 64 bytes"),
    ({"columns": 16, "rest": u32(0, 0) + b"\x09\x0a"}, "priority of message 1 in a batch is 10, the limit is 9"),
    ({"columns": 16, "rest": u32(0, 0) + b"\x09"}, "priority of a batch end at offset 51, beyond its 50 bytes"),
    ({"columns": 32, "rest": u32(0, 0, 1, 0) + b"\x80"}, "group of message 0 in a batch is not valid UTF-8"),
    ({"columns": 64, "rest": u32(0, 0, 0, 1) + b"\x80"}, "key of message 1 in a batch is not valid UTF-8"),
]


@pytest.mark.parametrize(("content", "message"), FAULTS, ids=[fault for _, fault in FAULTS])
def test_read_malformed_batch_names_what_is_wrong(codec: Codec, content: dict[str, Any], message: str) -> None:
    frame = hand_made(**content)
    for read in (codec.read_batch, codec.decode_batch):
        with pytest.raises(MalformedFrame) as caught:
            read(frame)
        assert str(caught.value) == message


def test_read_short_or_missized_batch_is_malformed(codec: Codec) -> None:
    with pytest.raises(MalformedFrame, match="39 bytes is shorter than its 40 byte header"):
        codec.read_batch(hand_made()[:39])
    with pytest.raises(MalformedFrame, match="a batch frame of 53 bytes says that it has 52"):
        codec.read_batch(hand_made() + b"x")


@pytest.mark.parametrize(("position", "size"), [(-1, -1), (-1, 5), (53, -1), (53, 0), (0, 53), (50, 3)])
def test_read_part_outside_the_buffer_is_malformed(codec: Codec, position: int, size: int) -> None:
    with pytest.raises(MalformedFrame, match="does not fit in 52 bytes"):
        codec.read_batch(hand_made(), position, size)


def test_read_wrong_checksum_is_refused_only_when_verified(codec: Codec) -> None:
    good = hand_made()
    bad = good[:-1] + b"x"
    with pytest.raises(ChecksumMismatch, match=r"says crc32c 0x[0-9a-f]{8}, its bytes have 0x[0-9a-f]{8}"):
        codec.read_batch(bad)
    with pytest.raises(ChecksumMismatch):
        codec.decode_batch(bad)
    assert codec.read_batch(bad, verify=False) == codec.read_batch(good)
    assert codec.decode_batch(bad, verify=False).bodies == [b"a", b"bx"]


def test_read_body_over_the_given_limit_is_too_large(codec: Codec) -> None:
    assert codec.read_batch(hand_made(), body_size_max=2).body_size_max == 2
    with pytest.raises(MessageTooLarge, match="a message has 2 bytes, the limit is 1") as caught:
        codec.read_batch(hand_made(), body_size_max=1)
    assert caught.value.fields == {"size": 2, "limit": 1}


def test_read_frame_over_the_limit_is_too_large_before_its_checksum(codec: Codec) -> None:
    fits = hand_made(count=1, rest=u32(MIB - 45) + bytes(MIB - 45))
    assert codec.read_batch(fits, body_size_max=MIB - 45).body_bytes == MIB - 45
    with pytest.raises(MessageTooLarge) as caught:
        codec.read_batch(hand_made(count=2, rest=u32(MIB, 0) + bytes(MIB))[:-1] + b"x", body_size_max=48)
    assert caught.value.fields == {"size": MIB + 49, "limit": MIB + 48}


def test_read_largest_count_is_accepted(codec: Codec) -> None:
    frame = codec.encode_batch(b"q", [b""] * 65_535, 1, 2**64 - 65_535)
    assert codec.read_batch(frame).count == 65_535


BIG = bytes(33 * MIB)

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"channel": b""}, "channel name size is 0, allowed is 1 to 255"),
    ({"channel": b"c" * 256}, "channel name size is 256, allowed is 1 to 255"),
    ({"channel": b"\xff"}, "channel name is b'\\xff', allowed is valid UTF-8"),
    ({"bodies": []}, "number of bodies is 0, allowed is 1 to 65535"),
    ({"bodies": [b""] * 65_536}, "number of bodies is 65536, allowed is 1 to 65535"),
    ({"bodies": [b"", "text"]}, "body of message 1 is 'str', allowed is bytes"),
    ({"bodies": [b"", bytes(64 * MIB + 1)]}, f"body size of message 1 is {64 * MIB + 1}, allowed is up to {64 * MIB}"),
    ({"bodies": [BIG, BIG]}, f"size of the batch frame is {66 * MIB + 49}, allowed is up to {65 * MIB}"),
    ({"producer": -1}, "producer is -1, allowed is a u64"),
    ({"producer": 2**64}, f"producer is {2**64}, allowed is a u64"),
    ({"producer": 1}, f"base sequence is 0, allowed is 1 to {2**64 - 2}"),
    ({"producer": 1, "base_sequence": 2**64 - 1}, f"base sequence is {2**64 - 1}, allowed is 1 to {2**64 - 2}"),
    ({"base_sequence": 1}, "base sequence is 1, allowed is 0 to 0"),
    ({"ids": [b""]}, "number of id values is 1, allowed is 2, one for each body"),
    ({"ids": [b"", b"i" * 256]}, "id size of message 1 is 256, allowed is up to 255"),
    ({"ids": [b"", b"\xff"]}, "id of message 1 is b'\\xff', allowed is valid UTF-8"),
    ({"headers": [b"", b"", b""]}, "number of headers values is 3, allowed is 2, one for each body"),
    ({"headers": [None, b""]}, "headers of message 0 is 'NoneType', allowed is bytes"),
    ({"headers": [bytes(65_536), b""]}, "headers size of message 0 is 65536, allowed is up to 65535"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED, ids=[refusal for _, refusal in REFUSED])
def test_encode_over_a_limit_is_refused_before_sending(codec: Codec, change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"channel": b"q", "bodies": [b"a", b"b"], **change}
    with pytest.raises(LocalProtocolError) as caught:
        codec.encode_batch(**arguments)
    assert str(caught.value) == message


def test_resealed_frame_of_the_codec_is_unchanged(codec: Codec) -> None:
    frame = codec.encode_batch(b"q", [b"body"])
    assert resealed(frame) == frame
