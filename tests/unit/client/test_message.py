"""Messages to and from the bytes on the wire."""

from __future__ import annotations

import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zmqbroker.client.message import Content, Encoded, Origin, encode_message, read_messages, receipts_of
from zmqbroker.commands import Receipt
from zmqbroker.errors import LocalProtocolError, RemoteProtocolError, UnreadableBody
from zmqbroker.wire.codec import encode_batch
from zmqbroker.wire.columns import Treatment, add_columns
from zmqbroker.wire.compression import compress_bodies, mark_compressed
from zmqbroker.wire.headers import NO_HEADERS, MessageHeaders

BATCH = encode_batch(b"q", [b"a", b"b"])
PACKED = [zlib.compress(bytes(100))]
ORIGIN = {"channel": "orders", "sequence": 6, "delivery_count": 5, "reason": "delivery_limit"}
WRONG_ORIGINS: list[Any] = [
    *(None, [], "orders", {}),
    *({name: value for name, value in ORIGIN.items() if name != left_out} for left_out in ORIGIN),
    *({**ORIGIN, **wrong} for wrong in ({"channel": b"orders"}, {"sequence": "6"}, {"delivery_count": True}, {"reason": None})),
]


def test_read_messages_numbers_what_a_piece_brings() -> None:
    messages = read_messages(None, "q", {"pieces": [[7, 3, 4, 2, 99]]}, [BATCH], Content)
    assert [(one.sequence, one.assigning, one.delivery_count, one.time_unix_ns, one.body) for one in messages] == [
        (3, 7, 2, 99, b"a"),
        (4, 7, 2, 99, b"b"),
    ]
    assert (messages[0].id, messages[0].metadata, messages[0].tags) == ("", None, {})


def test_read_messages_none_is_the_empty_list() -> None:
    assert list(read_messages(None, "q", {}, [], Content)) == []


def test_read_messages_headers_that_cannot_be_read_count_as_none() -> None:
    frame = encode_batch(b"q", [b"a"], 0, 0, None, [b"\xc1garbage"])
    [message] = read_messages(None, "q", {"pieces": [[1, 1, 1, 1, 1]]}, [frame], Content)
    assert (message.body, message.metadata) == (b"a", None)


@pytest.mark.parametrize(
    ("pieces", "bodies"),
    [
        ("x", []),
        ([], [BATCH]),
        ([[1, 1, 2, 1, 1]], []),
        ([[1, 1, 2, 1]], [BATCH]),
        ([[1, 1, 2, 1, "x"]], [BATCH]),
        (["piece"], [BATCH]),
        ([[1, 1, 3, 1, 1]], [BATCH]),
        ([[1, 1, 2, 1, 1]], [BATCH[:-1]]),
        ([[1, 1, 2, 1, 1]], [BATCH[:-1] + b"x"]),
        *(([[1, 1, 2, 1, 1, origin]], [BATCH]) for origin in WRONG_ORIGINS),
        ([[1, 1, 2, 1, 1, ORIGIN, 7]], [BATCH]),
    ],
)
def test_read_messages_that_are_none_is_the_nodes_fault(pieces: Any, bodies: list[bytes]) -> None:
    with pytest.raises(RemoteProtocolError):
        read_messages(None, "q", {"pieces": pieces}, bodies, Content)


def test_messages_of_one_piece_have_their_own_ids_and_headers() -> None:
    headers = encode_message(b"", None, MessageHeaders("m", {"a": "b"}), 10)[2]
    frame = encode_batch(b"q", [b"a", b"b"], 0, 0, [b"one", b""], [b"", headers])
    first, second = read_messages(None, "q", {"pieces": [[7, 3, 4, 2, 99]]}, [frame], Content)
    assert (first.id, first.metadata, first.tags) == ("one", None, {})
    assert (second.id, second.metadata, second.tags) == ("", "m", {"a": "b"})
    assert (second.channel, repr(second)) == ("q", "<Content 4 of 'q': 1 bytes>")


def test_messages_that_were_moved_tell_where_they_were() -> None:
    row = [7, 3, 4, 2, 99, {**ORIGIN, "later": 1}]
    moved = read_messages(None, "q", {"pieces": [row, [7, 5, 6, 2, 99]]}, [BATCH, BATCH], Content)
    assert [message.origin for message in moved] == [
        Origin("orders", 6, 5, "delivery_limit"),
        Origin("orders", 7, 5, "delivery_limit"),
        None,
        None,
    ]


def test_messages_tell_their_groups() -> None:
    grouped = add_columns(encode_batch(b"q", [b"a", b"b"], ids=[b"i", b""]), 2, [Treatment(5), Treatment(group="é")])
    rows = [[7, 3, 4, 2, 99], [7, 5, 6, 2, 99]]
    messages = read_messages(None, "q", {"pieces": rows}, [BATCH, memoryview(grouped)], Content)
    assert [message.group for message in messages] == ["", "", "", "é"]


def test_messages_tell_whether_their_sender_compressed_them() -> None:
    packed = compress_bodies([bytes(100), b"c" * 50])
    assert packed is not None
    compressed = mark_compressed(encode_batch(b"q", packed))
    rows = [[7, 3, 4, 2, 99], [7, 5, 6, 2, 99]]
    messages = read_messages(None, "q", {"pieces": rows}, [BATCH, compressed], Content)
    assert [message.compressed for message in messages] == [False, False, True, True]
    assert [message.body for message in messages] == [b"a", b"b", bytes(100), b"c" * 50]
    assert [message.raw_body for message in messages] == [b"a", b"b", *packed]
    assert repr(messages[2]) == f"<Content 5 of 'q': {len(packed[0])} bytes>"


def test_message_decompresses_its_body_once() -> None:
    message = read_messages(None, "q", {"pieces": [[7, 3, 3, 2, 99]]}, [mark_compressed(encode_batch(b"q", PACKED))], Content)[
        0
    ]
    assert message.body is message.body


@pytest.mark.parametrize(
    ("body", "size_max", "reason"),
    [
        (b"plain", 100, "it is no zlib stream"),
        (PACKED[0], 99, "it holds more than 99 bytes, the most a body may have"),
        (PACKED[0][:-1], 100, "no end within its"),
        (PACKED[0] + b"ab", 100, "2 bytes follow on its zlib stream"),
        (b"", 100, "no end within its 0 bytes"),
    ],
)
def test_message_with_a_body_that_cannot_be_read_says_so_and_the_others_are_read(
    body: bytes, size_max: int, reason: str
) -> None:
    frame = mark_compressed(encode_batch(b"q", [body, zlib.compress(b"whole")]))
    bad, good = read_messages(None, "q", {"pieces": [[7, 3, 4, 2, 99]]}, [frame], Content, size_max)
    for _ in range(2):
        with pytest.raises(UnreadableBody, match=f"the body of message 3 of 'q' cannot be read: .*{reason}"):
            bad.body  # noqa: B018 - asking is the subject
    assert (bad.raw_body, good.body) == (body, b"whole")


NUMBERS = st.integers(-1, 5) | st.booleans() | st.none() | st.text(max_size=2)
ORIGINS = st.none() | st.dictionaries(st.sampled_from([*ORIGIN, "later"]), NUMBERS, max_size=5) | st.just(ORIGIN)
ROWS = st.lists(NUMBERS, max_size=7) | st.tuples(*[st.integers(1, 4)] * 5, ORIGINS).map(list) | NUMBERS


@given(
    st.lists(ROWS, max_size=3) | NUMBERS,
    st.lists(
        st.sampled_from([BATCH, BATCH[:-1], encode_batch(b"q", [b"a"], 0, 0, [b"i"])]) | st.binary(max_size=50), max_size=3
    ),
)
def test_read_messages_of_anything_raises_only_that_it_is_the_nodes_fault(pieces: Any, bodies: list[bytes]) -> None:
    try:
        messages = read_messages(None, "q", {"pieces": pieces}, bodies, Content)
    except RemoteProtocolError:
        return
    for message in messages:
        assert message.piece.first <= message.sequence
        assert message.origin is None or message.origin.sequence >= message.place
    assert sum(receipt.last - receipt.first + 1 for receipt in receipts_of(messages)) == len(messages)


def test_messages_are_a_sequence_over_their_pieces() -> None:
    messages = read_messages(None, "q", {"pieces": [[7, 3, 4, 2, 99], [8, 9, 10, 1, 99]]}, [BATCH] * 2, Content)
    assert (len(messages), [one.sequence for one in messages]) == (4, [3, 4, 9, 10])
    assert [messages[at].sequence for at in (0, 1, 2, 3, -1, -4)] == [3, 4, 9, 10, 10, 3]
    assert [one.sequence for one in messages[1:3]] == [4, 9]
    assert receipts_of(messages) == receipts_of(list(messages)) == [Receipt(7, 3, 4), Receipt(8, 9, 10)]
    for at in (4, -5):
        with pytest.raises(IndexError):
            messages[at]


def test_receipts_join_neighbours_in_the_order_of_the_messages() -> None:
    pieces = [[7, 1, 2, 1, 9], [7, 3, 4, 1, 9], [8, 9, 10, 1, 9]]
    one, two, three, four, nine, ten = read_messages(None, "q", {"pieces": pieces}, [BATCH] * 3, Content)
    assert receipts_of([one, two, three, four]) == [Receipt(7, 1, 2), Receipt(7, 3, 4)]
    assert receipts_of([ten, nine, two, two, four]) == [
        Receipt(8, 10, 10),
        Receipt(8, 9, 9),
        *[Receipt(7, 2, 2)] * 2,
        Receipt(7, 4, 4),
    ]
    assert receipts_of([]) == []


def test_encode_message_without_headers_has_an_empty_column() -> None:
    assert encode_message(b"x", None, NO_HEADERS, 10) == Encoded(b"x", b"", b"")
    assert encode_message(b"x", None, MessageHeaders(None, {}), 10) == Encoded(b"x", b"", b"")
    assert encode_message(b"x", "i", MessageHeaders("m"), 10)[2] != b""


def test_encode_message_body_that_is_not_bytes_is_refused() -> None:
    with pytest.raises(LocalProtocolError, match="str"):
        encode_message("x", None, NO_HEADERS, 10)  # type: ignore[arg-type]
