"""Hand-overs in requests and in entries: bytes both ways, every fault by name, nothing else from damaged ones."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.wire.samples import batches, damaged
from tests.unit.wire.test_entries import SESSION_1, by_hand
from tests.unit.wire.test_requests import CHANNEL, RECEIPTS, U64
from zmqbroker.checksum import crc32c
from zmqbroker.commands import Command, HandOver, Publish, Receipt, Run
from zmqbroker.errors import InvalidChannel, InvalidRequest, LocalProtocolError, MalformedFrame, MessageTooLarge
from zmqbroker.wire import codec
from zmqbroker.wire.columns import Treatment, add_columns, read_ids
from zmqbroker.wire.entries import EntryBuilder, decode_entry
from zmqbroker.wire.frames import Reply, Request, decode_header
from zmqbroker.wire.hand_overs import HandOverFrames
from zmqbroker.wire.requests import HandOverRequest, SendBatch, decode_request, encode_request, reply_of

FRAME = codec.encode_batch(b"q", [b"a"], 1, 1, [b"i"], [b""])
OTHER = add_columns(codec.encode_batch(b"r", [b"bb", b"c"]), 3, [Treatment(delay_ms=5), Treatment()])
RECEIPT = (Receipt(65_536, 1, 4),)
SPAN = [65_536, 1, 4]
FRAMES = st.lists(batches().map(lambda arguments: codec.encode_batch(**arguments)), min_size=1, max_size=4).map(tuple)

# --- in an entry -----------------------------------------------------------------------------------------------------


@given(st.binary(min_size=16, max_size=16), CHANNEL, RECEIPTS, FRAMES, st.lists(FRAMES, max_size=2), U64)
def test_hand_over_built_and_decoded_is_the_same(
    session: bytes, channel: str, receipts: tuple[Receipt, ...], frames: tuple[bytes, ...], more: Any, time_unix_ns: int
) -> None:
    builder = EntryBuilder()
    for others in more:
        builder.add(HandOverFrames(session, channel, receipts, others))
        builder.add_publish(others[0])
    builder.add(HandOverFrames(session, channel, receipts, frames))
    size = builder.size_bytes
    data = builder.build(time_unix_ns)
    assert (len(data), crc32c(data)) == (size, builder.data_crc)
    *_, command = decode_entry(data).commands
    assert isinstance(command, HandOver)
    assert (command.session, command.channel, command.receipts) == (session, channel, receipts)
    assert [data[batch.position : batch.position + batch.size] for batch in command.batches] == list(frames)
    assert [batch.header for batch in command.batches] == [codec.read_batch(frame) for frame in frames]


def ids_of(frame: bytes) -> Sequence[bytes]:
    return read_ids(frame, 0, codec.read_batch(frame))


def test_hand_over_has_the_bytes_of_the_protocol() -> None:
    head = msgpack.packb([SESSION_1, "q", [SPAN], [len(FRAME), len(OTHER)]])
    payload = struct.pack("<I", len(head)) + head + FRAME + OTHER
    builder = EntryBuilder()
    builder.add(HandOverFrames(SESSION_1, "q", RECEIPT, (FRAME, OTHER)))
    data = builder.build(5)
    assert data == by_hand(19, payload)
    at = len(data) - len(OTHER)
    batches = (
        Publish(codec.read_batch(FRAME), at - len(FRAME), len(FRAME), ids=ids_of(FRAME)),
        Publish(
            codec.read_batch(OTHER),
            at,
            len(OTHER),
            runs=(Run(1, delay_ms=5), Run(1)),
            ids=ids_of(OTHER),
        ),
    )
    assert decode_entry(data).commands == (HandOver(SESSION_1, "q", RECEIPT, batches),)


@pytest.mark.parametrize(
    ("session", "channel", "receipts", "count"),
    [
        (b"short", "q", RECEIPT, 1),
        (SESSION_1, "", RECEIPT, 1),
        (SESSION_1, "x" * 256, RECEIPT, 1),
        (SESSION_1, "q", (Receipt(-1, 1, 1),), 1),
        (SESSION_1, "q", (Receipt(2**64, 1, 1),), 1),
        (SESSION_1, "q", RECEIPT, 0),
        (SESSION_1, "q", RECEIPT, 65),
    ],
)
def test_hand_over_with_a_value_out_of_its_range_is_not_written(
    session: bytes, channel: str, receipts: tuple[Receipt, ...], count: int
) -> None:
    builder = EntryBuilder()
    with pytest.raises(LocalProtocolError, match="a value of this hand-over is out of its range"):
        builder.add(HandOverFrames(session, channel, receipts, (FRAME,) * count))
    assert builder.count == 0


def payload(items: object, rest: bytes = FRAME) -> bytes:
    head: bytes = msgpack.packb(items)
    return struct.pack("<I", len(head)) + head + rest


GOOD = [SESSION_1, "q", [SPAN], [len(FRAME)]]
FAULTS: list[tuple[bytes, str]] = [
    (b"", "HandOver at offset 24 has 0 bytes, fewer than 4"),
    (b"\1\0\0", "HandOver at offset 24 has 3 bytes, fewer than 4"),
    (b"\2\0\0\0\x90", "what HandOver at offset 24 says of itself ends at 30, it ends at 29"),
    (b"\1\0\0\0\xc1", "HandOver of 1 bytes are not valid msgpack"),
    (payload({}), "HandOver at offset 24 has wrong values"),
    (payload(GOOD[:3]), "HandOver at offset 24 has wrong values"),
    (payload([b"short", *GOOD[1:]]), "HandOver at offset 24 has wrong values"),
    (payload([SESSION_1, b"q", *GOOD[2:]]), "HandOver at offset 24 has wrong values"),
    (payload([SESSION_1, "q", [[1, 2]], GOOD[3]]), "HandOver at offset 24 has wrong values"),
    (payload([*GOOD[:3], []]), "HandOver at offset 24 has wrong values"),
    (payload([*GOOD[:3], len(FRAME)]), "HandOver at offset 24 has wrong values"),
    (payload([*GOOD[:3], [-1]]), "HandOver at offset 24 has wrong values"),
    (payload([*GOOD[:3], [0] * 64 + [len(FRAME)]]), "HandOver at offset 24 has wrong values"),
    (payload([*GOOD[:3], [len(FRAME) + 1]]), "batches of HandOver at offset 24 end at 116, it ends at 115"),
    (payload([*GOOD[:3], [len(FRAME) - 1]]), "batches of HandOver at offset 24 end at 114, it ends at 115"),
    (payload([*GOOD[:3], [len(FRAME), 0]]), "a batch frame of 0 bytes is shorter"),
    (payload([*GOOD[:3], [len(FRAME) - 1, 1]]), "a batch frame of 54 bytes says that it has 55"),
]


@pytest.mark.parametrize(("given_payload", "message"), FAULTS, ids=range(len(FAULTS)))
def test_hand_over_malformed_names_what_is_wrong(given_payload: bytes, message: str) -> None:
    with pytest.raises(MalformedFrame) as caught:
        decode_entry(by_hand(19, given_payload))
    assert str(caught.value).startswith(message)


def commands_of(data: bytes) -> tuple[Command, ...]:
    try:
        return decode_entry(data).commands
    except MalformedFrame:
        return ()


def test_hand_over_damaged_anywhere_raises_only_named_errors() -> None:
    builder = EntryBuilder()
    builder.add(HandOverFrames(SESSION_1, "q", RECEIPT, (FRAME, OTHER)))
    data = builder.build(5)
    for frame in damaged(data[24:]):
        found = commands_of(data[:16] + struct.pack("<IB3x", len(frame), 19) + frame)
        assert len(found) in (0, 1)
        assert len(frame) == len(data) - 24 or not found


# --- as a request ----------------------------------------------------------------------------------------------------


@given(U64, CHANNEL, RECEIPTS, st.lists(st.binary(max_size=9), min_size=1, max_size=64).map(tuple), st.booleans())
def test_hand_over_request_encoded_and_decoded_is_the_same(
    request_id: int, channel: str, receipts: tuple[Receipt, ...], frames: tuple[bytes, ...], forward: bool
) -> None:
    request = HandOverRequest(channel, receipts, frames, forward)
    header, *bodies = encode_request(request_id, request)
    command, decoded_id, fields = decode_header(header, from_client=True)
    assert (command, decoded_id, bodies) == (Request.HAND_OVER, request_id, list(frames))
    assert set(fields) == {"channel", "receipts", *(["forward"] if forward else [])}
    assert decode_request(command, fields, bodies) == request
    assert reply_of(request) == Reply.HANDED_OVER


#: Fields of a hand-over that are wrong, and what is said of them.
RANGES: list[tuple[dict[str, Any], str]] = [
    ({"channel": 5}, "field channel must be text: 5"),
    ({"forward": "yes"}, "field forward must be true or false: 'yes'"),
    ({"receipts": None}, "field receipts must be a list of 1 to 4096 receipts: None"),
    ({"receipts": []}, "field receipts must be a list of 1 to 4096 receipts: []"),
    ({"receipts": [[1, 1, 1]] * 4097}, "field receipts must be a list of 1 to 4096 receipts: [[1, 1, 1]"),
    ({"receipts": [[1, 1]]}, "field receipts holds what is not [assigning, first, last]: [1, 1]"),
    ({"receipts": [[1, 1, -1]]}, "field receipts holds what is not [assigning, first, last]: [1, 1, -1]"),
    ({"receipts": [[1, True, 1]]}, "field receipts holds what is not [assigning, first, last]: [1, True, 1]"),
]


@pytest.mark.parametrize(("fields", "said"), RANGES, ids=[said[:50] for _, said in RANGES])
def test_hand_over_field_that_breaks_its_rule_is_named_with_its_value(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        decode_request(Request.HAND_OVER, {"channel": "q", "receipts": [[1, 1, 1]], **fields}, [FRAME])
    assert str(caught.value).startswith(said)


def test_hand_over_channel_name_that_breaks_a_rule_is_an_invalid_channel() -> None:
    with pytest.raises(InvalidChannel, match="'a b' holds white space"):
        decode_request(Request.HAND_OVER, {"channel": "a b", "receipts": [[1, 1, 1]]}, [FRAME])


@pytest.mark.parametrize("count", [0, 65])
def test_hand_over_has_one_to_64_batches(count: int) -> None:
    fields = {"channel": "q", "receipts": [[1, 1, 1]]}
    with pytest.raises(MalformedFrame, match=f"HAND_OVER has {count} body frames, it must have 1 to 64"):
        decode_request(Request.HAND_OVER, fields, [FRAME] * count)
    assert isinstance(decode_request(Request.HAND_OVER, fields, [FRAME] * 64, 1), HandOverRequest)


def test_body_counts_of_other_requests_are_as_before() -> None:
    with pytest.raises(MalformedFrame, match=r"SEND_BATCH has 2 body frames, it must have 1$"):
        decode_request(Request.SEND_BATCH, {}, [FRAME, FRAME])
    with pytest.raises(MessageTooLarge):
        decode_request(Request.SEND, {"channel": "q"}, [b"xx"], 1)
    assert decode_request(Request.SEND_BATCH, {}, [FRAME], 1) == SendBatch(FRAME)
