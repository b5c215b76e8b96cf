"""The headers column's values: docs/PROTOCOL.md §5."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zmqbroker.errors import LocalProtocolError, MalformedFrame
from zmqbroker.wire.headers import NO_HEADERS, MessageHeaders, decode_message_headers, encode_message_headers, is_tags

TEXT = st.text(st.characters(codec="utf-8"), max_size=8)


@given(st.builds(MessageHeaders, st.none() | TEXT, st.none() | st.dictionaries(TEXT, TEXT, min_size=1), st.none() | TEXT))
def test_headers_encoded_and_decoded_are_the_same(headers: MessageHeaders) -> None:
    assert decode_message_headers(encode_message_headers(headers)) == headers


def test_headers_with_nothing_in_them_are_no_bytes() -> None:
    assert encode_message_headers(NO_HEADERS) == b""
    assert encode_message_headers(MessageHeaders(tags={})) == b""
    assert decode_message_headers(b"") == NO_HEADERS


def test_headers_hold_all_four_keys_and_ignore_others() -> None:
    value = msgpack.packb({"metadata": "m", "tags": {"a": "b"}, "client_id": "c", "trace": "t", "later": 1})
    assert decode_message_headers(value) == MessageHeaders("m", {"a": "b"}, "c", "t")
    assert encode_message_headers(MessageHeaders(trace="t")) == msgpack.packb({"trace": "t"})


def test_headers_over_their_limit_are_refused_before_sending() -> None:
    assert len(encode_message_headers(MessageHeaders("x" * 65_522))) == 65_535
    with pytest.raises(LocalProtocolError, match="headers of a message have 65536 bytes, the limit is 65535"):
        encode_message_headers(MessageHeaders("x" * 65_523))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (b"\xc1", "headers of 1 bytes are not valid msgpack"),
        (b"\x90", "headers are not a msgpack map"),
        (msgpack.packb({"metadata": 1}), "header metadata is not text: 1"),
        (msgpack.packb({"client_id": b"c"}), "header client_id is not text: b'c'"),
        (msgpack.packb({"trace": []}), r"header trace is not text: \[\]"),
        (msgpack.packb({"tags": {"a": 1}}), "header tags is not a map of text: {'a': 1}"),
        (msgpack.packb({"tags": "a"}), "header tags is not a map of text: 'a'"),
    ],
)
def test_headers_malformed_name_what_is_wrong(value: bytes, message: str) -> None:
    with pytest.raises(MalformedFrame, match=message):
        decode_message_headers(value)


@given(st.binary(max_size=20))
def test_headers_arbitrary_bytes_raise_only_the_named_error(value: bytes) -> None:
    try:
        headers = decode_message_headers(value)
    except MalformedFrame:
        return
    assert headers.tags is None or is_tags(headers.tags)
