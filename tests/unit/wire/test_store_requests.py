"""Requests about events stores, as values: every range and default of docs/PROTOCOL.md §3."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.wire.test_requests import U32, U64, VALUES
from zmqbroker.commands import STARTS
from zmqbroker.errors import InvalidChannel, InvalidRequest, MalformedFrame
from zmqbroker.wire.frames import Reply, Request, decode_header
from zmqbroker.wire.requests import (
    AnyRequest,
    OpenConsumerRequest,
    ReadRequest,
    ResetConsumerRequest,
    command_of,
    decode_request,
    encode_request,
    reply_of,
)
from zmqbroker.wire.store_requests import START_VALUES, start_fault

READ, OPEN, RESET = Request.READ, Request.OPEN_CONSUMER, Request.RESET_CONSUMER
STORE, CONSUMER = "events_store:orders", "events_store:orders>billing"
PLACES = st.sampled_from(list(START_VALUES.items())).flatmap(
    lambda item: st.tuples(st.just(item[0]), st.just(0) if item[1] is None else st.integers(*item[1]))
)


@st.composite
def reads(draw: st.DrawFn) -> ReadRequest:
    counts = draw(st.integers(1, 65_535)), draw(st.integers(1, 16 << 20))
    flags = draw(st.booleans()), draw(st.booleans())
    if key := draw(st.sampled_from(["", "customer-7"])):
        return ReadRequest(STORE, "last", 0, *counts, 0, key, draw(U64), *flags)
    return ReadRequest(STORE, *draw(PLACES), *counts, draw(st.integers(0, 60_000)), "", draw(U64), *flags)


REQUESTS: st.SearchStrategy[AnyRequest] = st.one_of(
    reads(),
    st.builds(lambda place, *rest: OpenConsumerRequest(CONSUMER, *place, *rest), PLACES, st.booleans(), U32, st.booleans()),
    st.builds(lambda place, forward: ResetConsumerRequest(CONSUMER, place[0], place[1], forward), PLACES, st.booleans()),
)


@given(request_id=U64, request=REQUESTS)
def test_store_request_encoded_and_decoded_is_the_same(request_id: int, request: AnyRequest) -> None:
    (header,) = encode_request(request_id, request)
    command, decoded_id, fields = decode_header(header, from_client=True)
    assert (command, decoded_id) == (command_of(request), request_id)
    assert decode_request(command, fields, []) == request


NAMES = ["channel", "start", "value", "max", "max_bytes", "wait_ms", "key", "incarnation", "plain", "forward"]
NAMES += ["exclusive", "consumer"]


@given(
    st.sampled_from((READ, OPEN, RESET)),
    st.dictionaries(st.sampled_from(NAMES), VALUES | st.sampled_from(STARTS) | st.integers(0, 2000), max_size=5),
    st.sampled_from(["", STORE, CONSUMER]),
    st.lists(st.binary(max_size=3), max_size=1),
)
def test_store_request_arbitrary_fields_raise_only_named_errors(
    command: Request, fields: dict[str, Any], channel: str, bodies: list[bytes]
) -> None:
    try:
        request = decode_request(command, {**fields, **({"channel": channel} if channel else {})}, bodies)
    except (MalformedFrame, InvalidRequest, InvalidChannel):
        return
    assert command_of(request) == command


def test_store_request_without_fields_has_the_defaults_of_the_protocol() -> None:
    assert decode_request(READ, {"channel": STORE}, []) == ReadRequest(STORE, "new", 0, 1, 1 << 20, 0, "", 0, False, False)
    assert decode_request(OPEN, {"channel": CONSUMER}, []) == OpenConsumerRequest(CONSUMER, "new", 0, False, 0, False)
    expected = ResetConsumerRequest(CONSUMER, "first", 0, False)
    assert decode_request(RESET, {"channel": CONSUMER, "start": "first"}, []) == expected


def test_reply_of_store_requests() -> None:
    assert reply_of(ReadRequest(STORE)) == Reply.EVENTS_READ
    assert reply_of(OpenConsumerRequest(CONSUMER)) == reply_of(ResetConsumerRequest(CONSUMER, "first")) == Reply.CONSUMER


#: Fields that are wrong, for READ, each with what the error says.
BAD_READS: list[tuple[dict[str, Any], str]] = [
    ({"channel": "orders"}, "field channel is 'orders', an events store is called 'events_store:STORE'"),
    ({"channel": CONSUMER}, "field channel is 'events_store:orders>billing'"),
    ({"channel": 5}, "field channel must be text: 5"),
    ({"channel": None}, "field channel must be text: None"),
    ({"max": 0}, "field max is 0, allowed is 1 to 65535"),
    ({"max": 65_536}, "field max is 65536"),
    ({"max": "1"}, "field max must be an integer: '1'"),
    ({"max_bytes": 0}, "field max_bytes is 0, allowed is 1 to"),
    ({"max_bytes": (16 << 20) + 1}, "field max_bytes is 16777217"),
    ({"wait_ms": -1}, "field wait_ms is -1, allowed is 0 to 60000"),
    ({"wait_ms": 60_001}, "field wait_ms is 60001"),
    ({"wait_ms": 1.5}, "field wait_ms must be an integer: 1.5"),
    ({"key": 5}, "field key must be text: 5"),
    ({"key": "ü" * 128, "start": "last"}, "field key has 256 bytes, the limit is 255"),
    ({"key": "a"}, "field key is 'a' with start 'new' and wait_ms 0: of a key there is the last event, now"),
    ({"key": "a", "start": "last", "wait_ms": 5}, "field key is 'a' with start 'last' and wait_ms 5"),
    ({"incarnation": -1}, "field incarnation is -1"),
    ({"incarnation": "x"}, "field incarnation must be an integer: 'x'"),
    ({"plain": 1}, "field plain must be true or false: 1"),
    ({"forward": "yes"}, "field forward must be true or false: 'yes'"),
]
#: The same of where something begins, for all three.
BAD_STARTS: list[tuple[dict[str, Any], str]] = [
    ({"start": "here"}, "field start is 'here', it must be one of new, first, last, sequence, time, time_delta_ms"),
    ({"start": "NEW"}, "field start is 'NEW'"),
    ({"start": 5}, "field start must be text: 5"),
    ({"start": "sequence"}, "field value is 0, allowed with start 'sequence' is 1 to"),
    ({"start": "first", "value": 1}, "field value is 1 with start 'first', to which no value belongs"),
    ({"start": "last", "value": 1}, "field value is 1 with start 'last'"),
    ({"start": "new", "value": 1}, "field value is 1 with start 'new'"),
    ({"start": "time_delta_ms", "value": 315_576_000_001}, "allowed with start 'time_delta_ms' is 0 to 315576000000"),
    ({"start": "time", "value": -1}, "field value is -1"),
    ({"start": "time", "value": "now"}, "field value must be an integer: 'now'"),
]
#: And of the names of consumers, and of readers.
BAD_CONSUMERS: list[tuple[dict[str, Any], str]] = [
    ({"channel": "orders"}, "field channel is 'orders', a consumer is called 'events_store:STORE>CONSUMER'"),
    ({"channel": STORE}, "field channel is 'events_store:orders'"),
    ({"channel": b"x"}, "field channel must be text: b'x'"),
    ({"forward": 1}, "field forward must be true or false: 1"),
]
BAD_OPENS: list[tuple[dict[str, Any], str]] = [
    ({"exclusive": 1}, "field exclusive must be true or false: 1"),
    ({"consumer": -1}, "field consumer is -1"),
    ({"consumer": 2**32}, "field consumer is 4294967296"),
    ({"consumer": "billing"}, "field consumer must be an integer: 'billing'"),
]
BAD: list[tuple[Request, dict[str, Any], str]] = [
    *((READ, {"channel": STORE, **fields}, said) for fields, said in (*BAD_READS, *BAD_STARTS)),
    *(
        (command, {"channel": CONSUMER, "start": "first", **fields}, said)
        for command, bad in ((OPEN, BAD_OPENS), (RESET, []))
        for fields, said in (*BAD_CONSUMERS, *BAD_STARTS, *bad)
    ),
    (RESET, {"channel": CONSUMER}, "field start is missing, it must be text"),
]
#: Names that break a rule for names.
BAD_NAMES = ["events_store:", "events_store:a b", "events_store:a.", "events_store:*", "events_store:a>", "events_store:a>b>c"]


@pytest.mark.parametrize(("command", "fields", "said"), BAD)
def test_store_request_with_a_wrong_field_is_refused_by_its_name_and_value(
    command: Request, fields: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidRequest) as error:
        decode_request(command, fields, [])
    assert said in str(error.value)


@pytest.mark.parametrize("command", [READ, OPEN, RESET])
@pytest.mark.parametrize("name", BAD_NAMES)
def test_store_request_with_a_name_that_breaks_a_rule_is_refused(command: Request, name: str) -> None:
    with pytest.raises(InvalidChannel):
        decode_request(command, {"channel": name, "start": "first"}, [])


def test_starts_are_those_that_the_state_machine_knows() -> None:
    assert tuple(START_VALUES) == STARTS
    assert [start_fault(start, 1 if start == "sequence" else 0) for start in STARTS] == [None] * 6
