"""The AUDIT request as a value: every range and default of docs/PROTOCOL.md §3."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zmqbroker.errors import InvalidRequest, MalformedFrame
from zmqbroker.wire.frames import Request, decode_header
from zmqbroker.wire.requests import AuditRequest, command_of, decode_request, encode_request

AUDITS = st.builds(
    AuditRequest,
    st.integers(0, 2**64 - 1),
    st.none() | st.integers(0, 255),
    st.binary(max_size=255),
    st.booleans(),
)


@given(AUDITS, st.integers(0, 2**64 - 1))
def test_audit_encoded_and_decoded_is_the_same(request: AuditRequest, request_id: int) -> None:
    header, *bodies = encode_request(request_id, request)
    command, found, fields = decode_header(header, from_client=True)
    assert (command, found) == (command_of(request), request_id) == (Request.AUDIT, request_id)
    assert decode_request(command, fields, bodies) == request


def test_audit_without_fields_has_the_defaults_of_the_protocol() -> None:
    assert decode_request(Request.AUDIT, {}, []) == AuditRequest(0, None, b"", False)


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"index": -1}, "field index is -1, allowed is 0 to 18446744073709551615"),
        ({"index": None}, "field index must be an integer: None"),
        ({"bucket": 256}, "field bucket is 256, allowed is 0 to 255"),
        ({"bucket": None}, "field bucket must be an integer: None"),
        ({"after": "text"}, "field after must be binary of at most 255 bytes: 'text'"),
        ({"after": bytes(256)}, "field after must be binary of at most 255 bytes: b"),
        ({"forward": 1}, "field forward must be true or false: 1"),
    ],
)
def test_audit_out_of_range_is_named(fields: dict[str, Any], match: str) -> None:
    with pytest.raises(InvalidRequest, match=match):
        decode_request(Request.AUDIT, fields, [])


def test_audit_with_a_body_is_malformed() -> None:
    with pytest.raises(MalformedFrame):
        decode_request(Request.AUDIT, {}, [b"body"])
