"""Frames of calls: what clients are pushed, and tables between nodes with every fault."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zmqbroker.errors import MalformedFrame
from zmqbroker.wire.call_frames import (
    BUSY,
    CANCELLED_NOTHING,
    FAILED,
    GIVEN,
    INLINE_SIZE_MAX,
    LAST,
    NO_ITEMS,
    PeerAnswer,
    PeerCall,
    answer_frame,
    called_frame,
    cancelled_frame,
    decode_answers,
    decode_calls,
    decode_cancels,
    decode_target,
    encode_answers,
    encode_calls,
    encode_cancels,
    encode_target,
)
from zmqbroker.wire.frames import Reply, decode_header

U32, U64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
ITEMS = st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=3), st.integers(0, 9), max_size=11).map(msgpack.packb)
CALLS = st.lists(st.builds(PeerCall, U64, U64, U32, st.binary(max_size=9), ITEMS, st.binary(max_size=9)), max_size=5)
ANSWERS = st.lists(
    st.builds(PeerAnswer, U64, U32, st.sampled_from((0, LAST)), ITEMS, st.binary(max_size=9))
    | st.builds(PeerAnswer, U64, U32, st.sampled_from((FAILED, FAILED | GIVEN, FAILED | BUSY)), ITEMS, st.just(b"")),
    max_size=5,
)


def test_large_bodies_travel_as_frames_of_their_own() -> None:
    calls = [PeerCall(number, 2, 3, b"t", NO_ITEMS, body) for number, body in enumerate((LARGE, b"", LARGE))]
    table, frames = encode_calls(calls)
    assert frames == [LARGE, LARGE]
    assert decode_calls(table, frames) == calls
    answers = [PeerAnswer(number, 1, LAST, NO_ITEMS, body) for number, body in enumerate((LARGE, b"", LARGE))]
    table, frames = encode_answers(answers)
    assert frames == [LARGE, LARGE]
    assert decode_answers(table, frames) == answers


@given(CALLS)
def test_calls_between_nodes_come_back_as_they_were_sent(calls: list[PeerCall]) -> None:
    assert decode_calls(*encode_calls(calls)) == calls


@given(ANSWERS)
def test_answers_between_nodes_come_back_as_they_were_sent(answers: list[PeerAnswer]) -> None:
    assert decode_answers(*encode_answers(answers)) == answers


@given(st.lists(U64, max_size=5))
def test_cancels_between_nodes_come_back_as_they_were_sent(numbers: list[int]) -> None:
    assert list(decode_cancels(encode_cancels(numbers))) == numbers


@given(CALLS, st.data())
def test_tables_between_nodes_that_are_cut_are_refused(calls: list[PeerCall], data: st.DataObject) -> None:
    table, bodies = encode_calls(calls)
    cut = data.draw(st.integers(0, len(table) - 1))
    with pytest.raises(MalformedFrame):
        decode_calls(table[:cut], bodies)


ONE_CALL = encode_calls([PeerCall(1, 2, 3, b"t", NO_ITEMS, b"body")])[0]
LARGE = b"x" * (INLINE_SIZE_MAX + 1)
LARGE_CALL = encode_calls([PeerCall(1, 2, 3, b"t", NO_ITEMS, LARGE)])[0]
LARGE_ANSWER = encode_answers([PeerAnswer(1, 1, LAST, NO_ITEMS, LARGE)])[0]


def with_items(items: bytes) -> bytes:
    return encode_calls([PeerCall(1, 2, 3, b"t", items, b"")])[0]


@pytest.mark.parametrize(
    ("decode", "fault"),
    [
        (lambda: decode_calls(b"1234567", []), "a table of 7 bytes between nodes is shorter than 8"),
        (lambda: decode_cancels(struct.pack("<II", 0, 1)), "the reserved field of a table between nodes is 1"),
        (lambda: decode_calls(LARGE_CALL, []), "a body of 4097 bytes between nodes is not there"),
        (lambda: decode_calls(LARGE_CALL, [b"short"]), "a body of 4097 bytes between nodes has 5"),
        (lambda: decode_calls(LARGE_CALL, [LARGE, LARGE]), "comes with more bodies than it tells of"),
        (lambda: decode_calls(ONE_CALL + b"x", []), "ends at offset 46, it has 47 bytes"),
        (lambda: decode_calls(with_items(b""), []), "items between nodes are no map, or too large: b''"),
        (lambda: decode_calls(with_items(b"\x90"), []), "items between nodes are no map"),
        (lambda: decode_calls(with_items(b"\x8c"), []), "items between nodes are no map, or too large"),
        (
            lambda: decode_answers(encode_answers([PeerAnswer(1, 1, LAST, b"\x90", b"")])[0], []),
            "items between nodes are no map",
        ),
        (lambda: decode_answers(LARGE_ANSWER, []), "a body of 4097 bytes between nodes is not there"),
        (lambda: decode_answers(*encode_answers([PeerAnswer(1, 1, FAILED, NO_ITEMS, b"x")])), "of 1 bytes .* has flags 0x02"),
        (lambda: decode_answers(*encode_answers([PeerAnswer(1, 1, LAST | FAILED, NO_ITEMS, b"")])), "has flags 0x03"),
        (lambda: decode_answers(*encode_answers([PeerAnswer(1, 1, GIVEN, NO_ITEMS, b"")])), "has flags 0x04"),
        (lambda: decode_answers(struct.pack("<II", 1, 0), []), "is cut at offset 8"),
        (lambda: decode_cancels(encode_cancels([1])[:-1]), "ends at offset 16, it has 15"),
        (lambda: decode_target(b"\xc1"), "target of a call of 1 bytes are not valid msgpack"),
        (lambda: decode_target(msgpack.packb({})), "the target of a call is {}"),
        (lambda: decode_target(msgpack.packb([2, "c"])), "the target of a call is"),
        (lambda: decode_target(msgpack.packb([2, "c", [5]])), r"the groups of a call are \[5\]"),
    ],
)
def test_tables_between_nodes_with_a_fault_are_refused_by_name(decode: Callable[[], Any], fault: str) -> None:
    with pytest.raises(MalformedFrame, match=fault):
        decode()


def test_target_of_a_call_comes_back_as_it_was_sent() -> None:
    assert decode_target(encode_target(2, "svc", ("", "g"))) == (2, "svc", ("", "g"))


def test_called_joins_what_the_caller_said_with_what_its_responder_needs() -> None:
    items = msgpack.packb({"channel": "svc", "tags": {"a": "b"}})
    told = {"channel": "svc", "tags": {"a": "b"}, "deadline_unix_ns": 2**63, "remaining_ms": 5, "subscription": 7, "call": 9}
    assert decode_header(called_frame(9, items, 2**63, 5, 7)) == (Reply.CALLED, 0, told)


@pytest.mark.parametrize(
    ("items", "part", "last", "cache_hit", "told"),
    [
        ({}, 1, True, False, {}),
        ({"metadata": "m"}, 1, True, False, {"metadata": "m"}),
        ({"metadata": "m"}, 1, True, True, {"metadata": "m", "cache_hit": True}),
        ({}, 1, False, False, {"part": 1, "last": False}),
        ({"metadata": "m"}, 3, True, False, {"metadata": "m", "part": 3, "last": True}),
    ],
)
def test_answer_tells_its_place_where_it_has_parts(
    items: dict[str, Any], part: int, last: bool, cache_hit: bool, told: dict[str, Any]
) -> None:
    frame = answer_frame(9, msgpack.packb(items), part, last=last, cache_hit=cache_hit)
    assert decode_header(frame) == (Reply.ANSWER, 9, told)


def test_cancelled_names_a_call_or_says_nothing() -> None:
    assert decode_header(cancelled_frame(9, 7)) == (Reply.CANCELLED, 0, {"call": 9, "subscription": 7})
    assert decode_header(CANCELLED_NOTHING) == (Reply.CANCELLED, 0, {})
