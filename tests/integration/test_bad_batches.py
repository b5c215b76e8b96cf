"""Batches, producers and receipts that are wrong: nothing is stored, the error says what, and the node goes on."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.integration.conftest import MESSAGE_BYTES_MAX
from tests.integration.wild import Wild, batch, counters, only_node, refusal, refusals, resealed, serves, short, unique_channel
from tests.processes import Cluster
from tests.raw import new_request_id
from zmqbroker.wire.frames import Reply, Request, encode_header

SEND, SEND_BATCH, RECEIVE, ACK = Request.SEND, Request.SEND_BATCH, Request.RECEIVE, Request.ACK


def changed(frame: bytes, offset: int, form: str, value: int) -> bytes:
    """A batch with one header field changed, its checksum right again."""
    copy = bytearray(frame)
    struct.pack_into(form, copy, offset, value)
    return resealed(copy)


def batches(frames: list[bytes]) -> list[list[bytes]]:
    return [[encode_header(SEND_BATCH, new_request_id(), {}), frame] for frame in frames]


def depth(wild: Wild, channel: str) -> int:
    found: int = wild.ask(Request.STATS, {"channel": channel}).fields["depth"]
    return found


# --- the frame -------------------------------------------------------------------------------------------------------


def test_batch_cut_at_any_length_is_malformed(solo: Cluster) -> None:
    frame = batch(unique_channel("cut"), b"one", b"", b"three")
    answers = refusals(only_node(solo), "MALFORMED_FRAME", batches([frame[:size] for size in range(len(frame))]))
    for size, answer in enumerate(answers):
        assert f" {size} bytes" in answer.fields["message"]


def test_batch_with_bytes_behind_it_is_malformed(solo: Cluster) -> None:
    frame = batch(unique_channel(), b"one")
    refusals(only_node(solo), "MALFORMED_FRAME", batches([frame + b"x", resealed(frame + b"x"), resealed(frame[:-1])]))


def test_batch_with_one_bit_flipped_anywhere_is_not_stored(solo: Cluster) -> None:
    node, channel = only_node(solo), unique_channel("bits")
    frame = batch(channel, b"one", b"two")
    flipped = [
        frame[:at] + bytes([frame[at] ^ 1 << bit]) + frame[at + 1 :] for at in range(len(frame)) for bit in (0, at % 7 + 1)
    ]
    seen_by_magic_and_size = 2 * (4 + 4)
    before = counters(node)
    with Wild(node.endpoint) as wild:
        assert wild.ask(SEND_BATCH, {}, [frame]).command == Reply.SENT
        for frames in batches(flipped):
            wild.send_frames(frames)
        codes = [wild.next_answer().code for _ in flipped]
        assert depth(wild, channel) == 2
    assert codes.count("MALFORMED_FRAME") == seen_by_magic_and_size
    assert codes.count("CHECKSUM_MISMATCH") == len(flipped) - seen_by_magic_and_size
    after = counters(node)
    assert after["refused_checksum_mismatch"] - before.get("refused_checksum_mismatch", 0) == codes.count("CHECKSUM_MISMATCH")
    assert serves(node)


def test_checksum_mismatch_names_both_and_may_be_retried(solo: Cluster) -> None:
    frame = batch("orders", b"one")
    (answer,) = refusals(only_node(solo), "CHECKSUM_MISMATCH", batches([frame[:4] + b"\1\2\3\4" + frame[8:]]))
    assert "0x04030201" in answer.fields["message"]
    assert f"{struct.unpack_from('<I', frame, 4)[0]:#010x}" in answer.fields["message"]
    assert answer.fields["retryable"] is True


@pytest.mark.parametrize(
    ("offset", "form", "value", "said"),
    [
        (0, "<I", 0x3242425A, "b'ZBB2'"),
        (12, "<I", 0, "is 0, allowed is 1 to 65535"),
        (12, "<I", 65_536, "is 65536, allowed is 1 to 65535"),
        (12, "<I", 2**32 - 1, "is 4294967295"),
        (12, "<I", 60_000, "offset 240046"),
        (24, "<Q", 5, "base sequence of a batch is 5"),
        (32, "<H", 0x0080, "0x0080"),
        (32, "<H", 0xFFFF, "0xffff"),
        (34, "<H", 0x0002, "0x0002"),
        (36, "<H", 0, "is 0, allowed is 1 to 255"),
        (36, "<H", 256, "is 256, allowed is 1 to 255"),
        (36, "<H", 255, "beyond its 53 bytes"),
        (38, "<H", 1, "of a batch is 1, allowed is 0 to 0"),
        (40, "<B", 0xFF, "not valid UTF-8"),
    ],
    ids=short,
)
def test_batch_with_an_impossible_header_is_malformed(solo: Cluster, offset: int, form: str, value: int, said: str) -> None:
    frame = changed(batch("orders", b"one"), offset, form, value)
    (answer,) = refusals(only_node(solo), "MALFORMED_FRAME", batches([frame]))
    assert said in answer.fields["message"]


def test_batch_whose_sequences_do_not_fit_is_malformed(solo: Cluster) -> None:
    last = changed(batch("orders", b"one", b"two", producer=1, base=1), 24, "<Q", 2**64 - 1)
    none = changed(batch("orders", b"one", producer=1, base=1), 24, "<Q", 0)
    refusals(only_node(solo), "MALFORMED_FRAME", batches([last, none]))


def test_batch_whose_bodies_do_not_add_up_is_malformed(solo: Cluster) -> None:
    frame = batch("orders", b"one", b"two")
    sizes_at = 40 + len("orders")
    wrong = [changed(frame, sizes_at, "<I", size) for size in (0, 2, 4, 2**32 - 1)]
    refusals(only_node(solo), "MALFORMED_FRAME", batches(wrong))


@pytest.mark.parametrize("name", ["a b", "*", "x>", "a;b", "ends.", "_sys.x", "a\u3000", "\x7f"], ids=short)
def test_batch_for_a_channel_that_cannot_be_is_refused(solo: Cluster, name: str) -> None:
    (answer,) = refusals(only_node(solo), "INVALID_CHANNEL", batches([batch(name, b"x")]))
    assert repr(name) in answer.fields["message"]


@pytest.mark.parametrize(("size", "said"), [(256, "group of message 0 in a batch is 256"), (1, "not valid UTF-8")])
def test_batch_with_a_group_that_cannot_be_is_malformed(solo: Cluster, size: int, said: str) -> None:
    channel = unique_channel()
    frame = batch(channel, b"one")
    bodies_at = 40 + len(channel) + 4
    grouped = bytearray(frame[:bodies_at] + struct.pack("<I", size) + b"\xff" * size + frame[bodies_at:])
    struct.pack_into("<H", grouped, 32, 1 << 5)
    (answer,) = refusals(only_node(solo), "MALFORMED_FRAME", batches([resealed(grouped)]))
    assert said in answer.fields["message"]


def test_batch_with_what_this_version_does_not_serve_is_unsupported(solo: Cluster) -> None:
    channel = unique_channel()
    frame = batch(channel, b"one")
    bodies_at = 40 + len(channel) + 4
    with_text = bytearray(frame[:bodies_at] + struct.pack("<I", 1) + b"k" + frame[bodies_at:])
    struct.pack_into("<H", with_text, 32, 1 << 6)  # key
    (answer,) = refusals(only_node(solo), "UNSUPPORTED", batches([resealed(with_text)]))
    assert "0x40" in answer.fields["message"]
    refusal(only_node(solo), "CHANNEL_NOT_FOUND", Request.STATS, {"channel": channel})


def test_message_over_the_limit_is_refused_with_size_and_limit(solo: Cluster) -> None:
    node, channel, size = only_node(solo), unique_channel(), MESSAGE_BYTES_MAX + 1
    answers = [
        refusal(node, "MESSAGE_TOO_LARGE", SEND, {"channel": channel}, [bytes(size)]),
        *refusals(node, "MESSAGE_TOO_LARGE", batches([batch(channel, b"small", bytes(size))])),
    ]
    for answer in answers:
        assert (answer.fields["size"], answer.fields["limit"]) == (size, MESSAGE_BYTES_MAX)
        assert f"{size} bytes" in answer.fields["message"]
    refusal(node, "CHANNEL_NOT_FOUND", Request.STATS, {"channel": channel})


def test_batch_over_the_limit_is_refused_with_size_and_limit(solo: Cluster) -> None:
    with Wild(only_node(solo).endpoint) as wild:
        limit = wild.ask(Request.HELLO).fields["batch_bytes_max"]
    frame = batch("orders", *[bytes(MESSAGE_BYTES_MAX)] * 18)
    (answer,) = refusals(only_node(solo), "MESSAGE_TOO_LARGE", batches([frame]))
    assert (answer.fields["size"], answer.fields["limit"]) == (len(frame), limit)


def test_messages_of_the_largest_size_are_stored(solo: Cluster) -> None:
    channel, body = unique_channel(), bytes(MESSAGE_BYTES_MAX)
    with Wild(only_node(solo).endpoint) as wild:
        assert wild.ask(SEND, {"channel": channel}, [body]).command == Reply.SENT
        assert wild.ask(SEND_BATCH, {}, [batch(channel, *[body] * 16)]).fields["count"] == 16
        assert depth(wild, channel) == 17


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_batches_damaged_at_random_and_sealed_again_are_answered(solo_wild: Wild, data: st.DataObject) -> None:
    copy = bytearray(batch("damaged", b"one", b"two two", producer=5, base=1))
    for _ in range(data.draw(st.integers(1, 4))):
        copy[data.draw(st.integers(12, len(copy) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(copy[: data.draw(st.integers(40, len(copy)))])
    answer = solo_wild.ask(SEND_BATCH, {}, [resealed(cut)])
    assert answer.command in (Reply.SENT, Reply.ERROR)
    assert solo_wild.ask(Request.PING).command == Reply.PONG


@pytest.fixture(scope="module")
def solo_wild(solo: Cluster) -> Any:
    """One connection that lives through all damaged batches; afterwards the node must still serve others."""
    with Wild(only_node(solo).endpoint) as wild:
        yield wild
    assert serves(only_node(solo))


# --- producers -------------------------------------------------------------------------------------------------------


def test_producer_that_was_never_opened_is_unknown(solo: Cluster) -> None:
    node, channel = only_node(solo), unique_channel()
    sent = refusal(node, "UNKNOWN_PRODUCER", SEND, {"channel": channel, "producer": 77, "sequence": 1}, [b"x"])
    (batched,) = refusals(node, "UNKNOWN_PRODUCER", batches([batch(channel, b"x", producer=78, base=1)]))
    assert "77" in sent.fields["message"]
    assert "78" in batched.fields["message"]
    with Wild(node.endpoint) as wild:
        assert depth(wild, channel) == 0


def opened(wild: Wild, channel: str) -> int:
    """A new producer on the channel."""
    producer = new_request_id() | 1
    assert wild.ask(Request.OPEN_PRODUCER, {"channel": channel, "producer": producer}).fields == {"last_sequence": 0}
    return producer


def test_producer_with_a_gap_or_other_boundaries_is_told_what_is_expected(solo: Cluster) -> None:
    node, channel = only_node(solo), unique_channel()
    with Wild(node.endpoint) as wild:
        producer = opened(wild, channel)
        assert wild.ask(SEND_BATCH, {}, [batch(channel, b"1", b"2", producer=producer, base=1)]).command == Reply.SENT
        wrong = [(1, 1), (1, 3), (2, 1), (4, 1), (2**40, 1)]
        frames = [batch(channel, *[b"x"] * count, producer=producer, base=base) for base, count in wrong]
        answers = refusals(node, "OUT_OF_SEQUENCE", batches(frames))
        assert [answer.fields["expected"] for answer in answers] == [3] * len(wrong)
        assert not any(answer.fields["retryable"] for answer in answers)
        assert depth(wild, channel) == 2


def test_producer_that_repeats_is_stored_once_and_beyond_the_window_told_so(solo: Cluster) -> None:
    node, channel = only_node(solo), unique_channel()
    with Wild(node.endpoint) as wild:
        producer = opened(wild, channel)
        frames = [batch(channel, f"{base}".encode(), producer=producer, base=base) for base in range(1, 131)]
        first = [wild.ask(SEND_BATCH, {}, [frame]).fields for frame in frames]
        again = [wild.ask(SEND_BATCH, {}, [frame]).fields for frame in frames[2:]]
        assert again == [{**fields, "duplicate": True} for fields in first[2:]]
        (answer, _) = refusals(node, "DUPLICATE", batches(frames[:2]))
        assert "sequences 1 to 1" in answer.fields["message"]
        assert answer.fields["retryable"] is False
        assert depth(wild, channel) == 130


# --- receipts --------------------------------------------------------------------------------------------------------


def received(wild: Wild, channel: str, **fields: Any) -> list[list[int]]:
    """The receipts of all that is ready, waiting for at least one."""
    answer = wild.ask(RECEIVE, {"channel": channel, "max": 100, "wait_ms": 10_000, **fields})
    return [piece[:3] for piece in answer.fields["pieces"]]


def stale(solo: Cluster, channel: str, receipts: list[list[int]]) -> dict[str, Any]:
    """The fields of STALE_RECEIPT that an ack from a new session gets."""
    return refusal(only_node(solo), "STALE_RECEIPT", ACK, {"channel": channel, "receipts": receipts}).fields


def test_ack_of_what_was_never_delivered_is_stale(solo: Cluster) -> None:
    channel = unique_channel()
    with Wild(only_node(solo).endpoint) as wild:
        assert wild.ask(SEND_BATCH, {}, [batch(channel, b"1", b"2")]).command == Reply.SENT
        wrong = [[1, 1, 1], [1, 1, 2], [1, 5, 9], [1, 2, 1], [2**64 - 1, 1, 2**64 - 1], [0, 0, 0]]
        fields = stale(solo, channel, wrong)
        assert (fields["stale"], fields["count"]) == (wrong, 0)
        assert "[1, 1, 1]" in fields["message"]
        assert depth(wild, channel) == 2


def test_ack_on_a_channel_that_nobody_used_is_refused(solo: Cluster) -> None:
    channel = unique_channel()
    answer = refusal(only_node(solo), "CHANNEL_NOT_FOUND", ACK, {"channel": channel, "receipts": [[1, 1, 1]]})
    assert repr(channel) in answer.fields["message"]


def test_ack_of_what_another_session_holds_is_stale_and_leaves_it_there(solo: Cluster) -> None:
    channel = unique_channel()
    with Wild(only_node(solo).endpoint) as owner:
        owner.ask(SEND_BATCH, {}, [batch(channel, b"1", b"2")])
        receipts = received(owner, channel)
        assert stale(solo, channel, receipts)["stale"] == receipts
        assert owner.ask(ACK, {"channel": channel, "receipts": receipts}).fields["count"] == 2
        assert depth(owner, channel) == 0


def test_ack_after_the_message_went_to_somebody_else_is_stale(solo: Cluster) -> None:
    channel = unique_channel()
    with Wild(only_node(solo).endpoint) as first, Wild(only_node(solo).endpoint) as second:
        first.ask(SEND, {"channel": channel}, [b"x"])
        old = received(first, channel, visibility_ms=100)
        new = received(second, channel)
        assert new != old
        answer = first.ask(ACK, {"channel": channel, "receipts": old})
        assert (answer.code, answer.fields["stale"]) == ("STALE_RECEIPT", old)
        assert second.ask(ACK, {"channel": channel, "receipts": new}).fields["count"] == 1


def test_ack_of_good_and_stale_receipts_finishes_the_good_ones(solo: Cluster) -> None:
    channel = unique_channel()
    with Wild(only_node(solo).endpoint) as wild:
        wild.ask(SEND_BATCH, {}, [batch(channel, *[b"x"] * 6)])
        ((assigning, first, last),) = received(wild, channel)
        good, wrong = [[assigning, first, 2], [assigning, 4, 4]], [[assigning + 1, 3, 3], [assigning, 5, last + 1]]
        answer = wild.ask(ACK, {"channel": channel, "receipts": [good[0], wrong[0], good[1], wrong[1]]})
        assert (answer.code, answer.fields["stale"], answer.fields["count"]) == ("STALE_RECEIPT", wrong, 3)
        assert depth(wild, channel) == 3
        again = wild.ask(ACK, {"channel": channel, "receipts": good})
        assert again.fields["count"] == 3, "what an earlier attempt finished counts again"
        assert wild.ask(ACK, {"channel": channel, "receipts": [[assigning, first, last]]}).fields["count"] == 6
        assert depth(wild, channel) == 0
