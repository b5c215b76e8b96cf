"""PublishAll in an entry: its bytes, and what is no such command."""

from __future__ import annotations

import struct

import msgpack
import pytest

from tests.unit.wire.test_entries import by_hand
from zmqbroker.commands import Publish, PublishAll, Run
from zmqbroker.errors import LocalProtocolError, MalformedFrame
from zmqbroker.wire import codec
from zmqbroker.wire.columns import Treatment, add_columns
from zmqbroker.wire.entries import EntryBuilder, decode_entry
from zmqbroker.wire.publish_all import PublishAllFrames

FRAME = codec.encode_batch(b"q", [b"body"], 7, 1, [b"id"])
OTHER = add_columns(codec.encode_batch(b"events_store:r", [b"body"], 7, 1), 4, [Treatment(0, 0, 3, "")])


def payload(items: object, *frames: bytes) -> bytes:
    head: bytes = msgpack.packb(items)
    return struct.pack("<I", len(head)) + head + b"".join(frames)


@pytest.mark.parametrize("expected", [None, 0, 5])
def test_publish_all_has_the_bytes_of_the_protocol(expected: int | None) -> None:
    builder = EntryBuilder()
    builder.add(PublishAllFrames((FRAME, OTHER), expected))
    data = builder.build(5)
    assert data == by_hand(29, payload([expected, [len(FRAME), len(OTHER)]], FRAME, OTHER))
    assert builder.data_crc == codec.crc32c(data)
    first = data.index(FRAME)
    batches = (
        Publish(codec.read_batch(FRAME), first, len(FRAME), ids=[b"id"], expected_sequence=expected),
        Publish(
            *(codec.read_batch(OTHER), first + len(FRAME), len(OTHER)),
            runs=(Run(1, priority=3),),
            expected_sequence=expected,
        ),
    )
    assert decode_entry(data).commands == (PublishAll(batches),)


@pytest.mark.parametrize(
    "command",
    [PublishAllFrames(()), PublishAllFrames((FRAME,), -1), PublishAllFrames((FRAME,), 2**64), PublishAllFrames((FRAME,) * 65)],
)
def test_publish_all_out_of_range_is_not_written(command: PublishAllFrames) -> None:
    with pytest.raises(LocalProtocolError, match="a value of this PublishAll is out of its range"):
        EntryBuilder().add(command)


WRONG = "has wrong values"
BAD: list[tuple[bytes, str]] = [
    (b"\0\0", "PublishAll at offset 24 has 2 bytes, fewer than 4"),
    (struct.pack("<I", 9), "what PublishAll at offset 24 says of itself ends at 37, it ends at 28"),
    (payload({}), WRONG),
    (payload([None]), WRONG),
    (payload([None, [], 3]), WRONG),
    (payload([None, []]), WRONG),
    (payload([-1, [1]]), WRONG),
    (payload(["1", [1]]), WRONG),
    (payload([True, [1]]), WRONG),
    (payload([None, 5]), WRONG),
    (payload([None, ["1"]]), WRONG),
    (payload([None, [1] * 65]), WRONG),
    (payload([None, [len(FRAME)]], FRAME, b"x"), "batches of PublishAll at offset 24 end at"),
    (payload([None, [len(FRAME) - 1]], FRAME[:-1]), "batch"),
    (struct.pack("<I", 1) + b"\xc1", "PublishAll of 1 bytes are not valid msgpack"),
]


@pytest.mark.parametrize(("data", "message"), BAD)
def test_publish_all_that_is_none_is_malformed(data: bytes, message: str) -> None:
    with pytest.raises(MalformedFrame, match=message):
        decode_entry(by_hand(29, data))
