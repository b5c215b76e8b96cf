"""Golden bytes of what a send may ask: duplicates, an expected sequence, no confirm."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conformance.test_golden_frames import BATCHES, GOLDEN, TREATED, plain
from zmqbroker.client.batch import read_sent
from zmqbroker.commands import ChannelSettings, CreateChannel, Publish, UpdateChannel
from zmqbroker.errors import OutOfSequence, SequenceMismatch, error_from_wire
from zmqbroker.wire import codec
from zmqbroker.wire.entries import EntryBuilder, decode_entry
from zmqbroker.wire.frames import decode_header, encode_header, error_fields
from zmqbroker.wire.requests import AnyRequest, ManageRequest, Send, SendBatch, decode_request, encode_request

SENDS: dict[str, Any] = GOLDEN["sends"]
SETTINGS = ChannelSettings(dedup_window_ms=60_000)

REQUESTS: list[AnyRequest] = [
    Send("orders", b"hello", 5, 2, "a-1", expected_sequence=7),
    Send("orders", b"hello", expected_sequence=0),
    Send("orders", b"hello", forward=True, confirm="none"),
    SendBatch(BATCHES[0], expected_sequence=7),
    SendBatch(TREATED[1], True, expected_sequence=2**64 - 1),
    SendBatch(BATCHES[0], True, confirm="none"),
    ManageRequest(CreateChannel("orders", SETTINGS)),
    ManageRequest(UpdateChannel("orders", SETTINGS)),
]


def replies(name: str) -> list[dict[str, Any]]:
    """The fields of the replies of that name."""
    return [plain(item["fields"]) for item in SENDS["client"] if item["name"] == name]


@pytest.mark.parametrize("item", SENDS["client"], ids=lambda item: item["name"])
def test_golden_header_both_ways(item: dict[str, Any]) -> None:
    header, fields = bytes.fromhex(item["header"]), plain(item["fields"])
    assert decode_header(header) == (item["command"], item["request_id"], fields)
    assert encode_header(item["command"], item["request_id"], fields) == header


def test_golden_requests_are_the_values_they_stand_for() -> None:
    items = [item for item in SENDS["client"] if item["command"] < 0x80]
    for item, request in zip(items, REQUESTS, strict=True):
        frames = [bytes.fromhex(item["header"]), *map(bytes.fromhex, item["bodies"])]
        assert decode_request(item["command"], plain(item["fields"]), frames[1:]) == request
        assert encode_request(item["request_id"], request) == frames


def test_golden_duplicates_are_the_values_they_stand_for() -> None:
    (fields,) = replies("SENT")
    sent = read_sent(fields, 3)
    assert (sent.first, dict(sent.duplicates(0, 3))) == (42, {0: 17, 2: 43})


def test_golden_errors_are_the_values_they_stand_for() -> None:
    mismatch, gap = (error_from_wire(fields) for fields in replies("ERROR"))
    assert isinstance(mismatch, SequenceMismatch)
    assert (mismatch.expected, mismatch.last_sequence) == (7, 9)
    assert isinstance(gap, OutOfSequence)
    assert gap.expected == 3
    assert [error_fields(mismatch), error_fields(gap)] == replies("ERROR")


def test_golden_entry_both_ways() -> None:
    golden = SENDS["entry"]
    data = bytes.fromhex(golden["data"])
    plain_header, named_header = codec.read_batch(BATCHES[0]), codec.read_batch(TREATED[1])
    first, second = decode_entry(data).commands
    assert first == Publish(plain_header, 40, len(BATCHES[0]), 3, expected_sequence=7)
    assert isinstance(second, Publish)
    assert (second.header, second.incarnation, second.expected_sequence) == (named_header, 0, None)
    assert second.ids == (b"id-1", b"")
    builder = EntryBuilder()
    builder.add_publish(BATCHES[0], 3, 7)
    builder.add_publish(TREATED[1])
    assert builder.build(golden["time_unix_ns"]) == data
