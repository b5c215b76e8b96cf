"""Requests of smart routing, as values: every field of each, and what each of them must refuse."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.wire.test_entries import build, by_hand
from tests.unit.wire.test_requests import U64
from zmqbroker.commands import DeleteBinding, DeleteRoute, Destination, SetBinding, SetRoute
from zmqbroker.errors import InvalidChannel, InvalidRequest, LocalProtocolError, MalformedFrame, MessageTooLarge
from zmqbroker.wire import codec
from zmqbroker.wire.command_shapes import SmallCommand
from zmqbroker.wire.destinations import DESTINATIONS_SIZE_MAX
from zmqbroker.wire.entries import decode_entry
from zmqbroker.wire.frames import Reply, Request, decode_header
from zmqbroker.wire.requests import (
    AnyRequest,
    ListBindings,
    ListRoutes,
    ManageRequest,
    OpenProducerRequest,
    OpenProducers,
    RoutedSend,
    Send,
    SendBatch,
    command_of,
    decode_request,
    encode_request,
    reply_of,
)

SEND, SEND_BATCH, OPEN = Request.SEND, Request.SEND_BATCH, Request.OPEN_PRODUCER
SET_ROUTE, SET_BINDING = Request.SET_ROUTE, Request.SET_BINDING
DELETES = Request.DELETE_ROUTE, Request.DELETE_BINDING
LISTS = Request.LIST_ROUTES, Request.LIST_BINDINGS
FRAME = codec.encode_batch(b"anything", [b"body"])

NAME = st.text("abc.", min_size=1, max_size=5).filter(lambda name: name[-1] != ".")
DESTINATIONS = st.lists(
    st.builds(Destination, st.sampled_from(["queues", "events", "events_store", "routes"]), NAME),
    min_size=1,
    max_size=4,
    unique=True,
).map(tuple)
MESSAGES = st.builds(
    Send,
    st.just(""),
    st.binary(max_size=4),
    priority=st.integers(0, 9),
    forward=st.booleans(),
    confirm=st.sampled_from(["quorum", "none"]),
) | st.builds(lambda producer, sequence: Send("", b"", producer, sequence), U64.filter(bool), U64.filter(bool))
BATCHES = st.builds(SendBatch, st.just(FRAME), st.booleans(), st.booleans(), st.none() | U64)
PAGES = (st.text(max_size=9), st.text(max_size=9), st.integers(1, 1000), st.booleans())
REQUESTS: st.SearchStrategy[AnyRequest] = st.one_of(
    st.builds(RoutedSend, DESTINATIONS, MESSAGES | BATCHES),
    st.builds(OpenProducers, DESTINATIONS, U64.filter(bool), st.booleans()),
    st.builds(ManageRequest, st.builds(SetRoute, NAME, st.just("a;events:b;events_store:c")), st.booleans()),
    st.builds(ManageRequest, st.builds(DeleteRoute, NAME), st.booleans()),
    st.builds(ManageRequest, st.builds(SetBinding, st.just("events:a.*"), st.just("a;b")), st.booleans()),
    st.builds(ManageRequest, st.builds(DeleteBinding, st.just("events_store:>")), st.booleans()),
    st.builds(ListRoutes, *PAGES),
    st.builds(ListBindings, *PAGES),
)


@given(U64, REQUESTS)
def test_routing_request_written_and_read_is_the_same(request_id: int, request: AnyRequest) -> None:
    header, *bodies = encode_request(request_id, request)
    command, found_id, fields = decode_header(header, from_client=True)
    assert (command, found_id) == (command_of(request), request_id)
    assert decode_request(command, fields, bodies) == request


def test_replies_of_routing_requests() -> None:
    to = (Destination("queues", "a"),)
    assert reply_of(RoutedSend(to, Send("", b""))) == reply_of(RoutedSend(to, SendBatch(b""))) == Reply.ROUTED
    assert reply_of(OpenProducers(to, 1)) == Reply.PRODUCER
    assert (reply_of(ListRoutes()), reply_of(ListBindings())) == (Reply.ROUTES, Reply.BINDINGS)
    for command in (SetRoute("r", "a"), DeleteRoute("r"), SetBinding("events:a", "a"), DeleteBinding("events:a")):
        assert reply_of(ManageRequest(command)) == Reply.CHANGED


def test_sends_without_destinations_are_what_they_were() -> None:
    assert decode_request(SEND, {"channel": "a"}, [b"x"]) == Send("a", b"x")
    assert decode_request(SEND_BATCH, {}, [FRAME]) == SendBatch(FRAME)
    assert decode_request(OPEN, {"channel": "a", "producer": 1}, []) == OpenProducerRequest("a", 1)
    with pytest.raises(InvalidChannel, match="channel name 'a;b' holds ';'"):
        decode_request(SEND, {"channel": "a;b"}, [b"x"])


def test_body_of_a_routed_send_has_the_limit_of_every_message() -> None:
    with pytest.raises(MessageTooLarge, match="a message has 11 bytes, the limit is 10"):
        decode_request(SEND, {"to": "a;b"}, [bytes(11)], 10)


def test_route_is_kept_in_its_shortest_form() -> None:
    request = decode_request(SET_ROUTE, {"name": "r", "destinations": "queues:a;events:b"}, [])
    assert request == ManageRequest(SetRoute("r", "a;events:b"))


COMPLETE: dict[Request, dict[str, Any]] = {
    SEND: {"to": "a;b"},
    SEND_BATCH: {"to": "a;b"},
    OPEN: {"to": "a;b", "producer": 1},
    SET_ROUTE: {"name": "r", "destinations": "a;b"},
    Request.DELETE_ROUTE: {"name": "r"},
    Request.LIST_ROUTES: {},
    SET_BINDING: {"source": "events:a", "queues": "a;b"},
    Request.DELETE_BINDING: {"source": "events:a"},
    Request.LIST_BINDINGS: {},
}


def bodies_of(command: Request) -> list[bytes]:
    return [FRAME] if command in (SEND, SEND_BATCH) else []


#: What each of them must refuse, with the sentence that it begins with.
REFUSED: list[tuple[Request, dict[str, Any], str]] = [
    *((command, {"forward": 1}, "field forward must be true or false: 1") for command in COMPLETE),
    *((command, {"to": 5}, "field to must be text: 5") for command in (SEND, SEND_BATCH, OPEN)),
    *((command, {"to": None}, "field to must be text: None") for command in (SEND, SEND_BATCH, OPEN)),
    *((command, {"to": "a;a"}, "destination 2 of 2, 'a', is named before") for command in (SEND, SEND_BATCH, OPEN)),
    *((command, {"to": "commands:a"}, "destination 1 of 1, 'commands:a', is no dest") for command in (SEND, SEND_BATCH, OPEN)),
    *((command, {"to": "a b"}, "destination 1 of 1, 'a b', holds white space") for command in (SEND, SEND_BATCH, OPEN)),
    *((command, {"to": ""}, "destination 1 of 1, '', has 0 bytes") for command in (SEND, SEND_BATCH, OPEN)),
    *(
        (command, {"channel": "c"}, "field to is 'a;b' and channel 'c': one of them is said")
        for command in (SEND, SEND_BATCH, OPEN)
    ),
    (SEND, {"producer": 1}, "field sequence is 0 with producer 1"),
    (SEND, {"producer": 1, "sequence": 1, "confirm": "none"}, "field confirm is 'none' with producer 1"),
    (SEND, {"tags": 5}, "field tags must be a map of text: 5"),
    (SEND, {"priority": 10}, "field priority is 10"),
    *((command, {"expected_sequence": -1}, "field expected_sequence is -1") for command in (SEND, SEND_BATCH)),
    *((command, {"confirm": "all"}, "field confirm is 'all'") for command in (SEND, SEND_BATCH)),
    *((command, {"explain": 1}, "field explain must be true or false: 1") for command in (SEND, SEND_BATCH)),
    (OPEN, {"producer": 0}, "field producer is 0, allowed is 1 to"),
    (OPEN, {"producer": "1"}, "field producer must be an integer: '1'"),
    *((command, {"name": 5}, "field name must be text: 5") for command in (SET_ROUTE, Request.DELETE_ROUTE)),
    *((command, {"name": ""}, "route name '' ends where a name must follow") for command in (SET_ROUTE, Request.DELETE_ROUTE)),
    *((command, {"name": "a b"}, "route name 'a b' holds white space") for command in (SET_ROUTE, Request.DELETE_ROUTE)),
    *((command, {"name": "x" * 256}, "route name 'xxx") for command in (SET_ROUTE, Request.DELETE_ROUTE)),
    (SET_ROUTE, {"destinations": 5}, "field destinations must be text: 5"),
    (
        SET_ROUTE,
        {"destinations": "a;routes:b"},
        "destination 2 of 2, 'routes:b', is one of routes, allowed are queues, events_store",
    ),
    (SET_ROUTE, {"destinations": "queries:b"}, "destination 1 of 1, 'queries:b', is no destination"),
    (SET_ROUTE, {"destinations": "a;a"}, "destination 2 of 2, 'a', is named before"),
    (SET_ROUTE, {"destinations": ""}, "destination 1 of 1, '', has 0 bytes"),
    *((command, {"source": 5}, "field source must be text: 5") for command in (SET_BINDING, Request.DELETE_BINDING)),
    *(
        (command, {"source": source}, f"source '{source}' must begin with events: or events_store:")
        for command in (SET_BINDING, Request.DELETE_BINDING)
        for source in ("", "a", "queues:a", "routes:a")
    ),
    *(
        (command, {"source": f"events:{pattern}"}, f"source 'events:{pattern}': pattern '{pattern}'")
        for command in (SET_BINDING, Request.DELETE_BINDING)
        for pattern in ("", "a b", "a*", ">.a", "a.", "_sys.>", "a;b")
    ),
    (SET_BINDING, {"queues": 5}, "field queues must be text: 5"),
    (SET_BINDING, {"queues": "a;events:b"}, "destination 2 of 2, 'events:b', is one of events, allowed are queues"),
    (
        SET_BINDING,
        {"queues": "events_store:b"},
        "destination 1 of 1, 'events_store:b', is one of events_store, allowed are queues",
    ),
    (SET_BINDING, {"queues": "routes:b"}, "destination 1 of 1, 'routes:b', is one of routes, allowed are queues"),
    (SET_BINDING, {"queues": "a;a"}, "destination 2 of 2, 'a', is named before"),
    *((command, {"search": 5}, "field search must be text: 5") for command in LISTS),
    *((command, {"after": "x" * 269}, "field after has 269 bytes, the limit is 268") for command in LISTS),
    *((command, {"max": 0}, "field max is 0, allowed is 1 to 1000") for command in LISTS),
    *((command, {"max": 1001}, "field max is 1001, allowed is 1 to 1000") for command in LISTS),
]


@pytest.mark.parametrize(
    ("command", "fields", "message"), REFUSED, ids=[f"{command.name} {message[:60]}" for command, _, message in REFUSED]
)
def test_routing_request_field_that_breaks_its_rule_is_named_with_its_value(
    command: Request, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises((InvalidRequest, InvalidChannel)) as caught:
        decode_request(command, {**COMPLETE[command], **fields}, bodies_of(command))
    assert str(caught.value).startswith(message)


REQUIRED = [
    *[(SET_ROUTE, "name"), (SET_ROUTE, "destinations"), (SET_BINDING, "source"), (SET_BINDING, "queues")],
    *[(Request.DELETE_ROUTE, "name"), (Request.DELETE_BINDING, "source"), (OPEN, "producer")],
]


@pytest.mark.parametrize(("command", "name"), REQUIRED)
def test_routing_request_field_that_is_missing_is_named(command: Request, name: str) -> None:
    fields = {key: value for key, value in COMPLETE[command].items() if key != name}
    with pytest.raises(InvalidRequest, match=f"field {name} is missing"):
        decode_request(command, fields, [])


@pytest.mark.parametrize("command", COMPLETE)
@pytest.mark.parametrize("count", [0, 1, 2])
def test_routing_request_wrong_number_of_body_frames_is_malformed(command: Request, count: int) -> None:
    if count == len(bodies_of(command)):
        return
    with pytest.raises(MalformedFrame, match=f"{command.name} has {count} body frames"):
        decode_request(command, COMPLETE[command], [b"x"] * count)


# --- in the log ----------------------------------------------------------------------------------------------------------

COMMANDS: list[tuple[int, SmallCommand, list[str]]] = [
    (25, SetRoute("r", "a;events:b"), ["r", "a;events:b"]),
    (26, DeleteRoute("r"), ["r"]),
    (27, SetBinding("events:a.*", "a;b"), ["events:a.*", "a;b"]),
    (28, DeleteBinding("events_store:>"), ["events_store:>"]),
]


@pytest.mark.parametrize(("kind", "command", "items"), COMMANDS)
def test_routing_rule_has_the_bytes_of_the_protocol(kind: int, command: SmallCommand, items: list[str]) -> None:
    data = by_hand(kind, msgpack.packb(items))
    assert build(command) == data
    assert decode_entry(data).commands == (command,)


@pytest.mark.parametrize(
    ("kind", "items"),
    [
        *[(25, ["r"]), (25, ["r", ""]), (25, ["r", 5]), (25, [5, "a"]), (25, ["", "a"]), (25, ["r", "a", "b"])],
        *[(25, ["r", "x" * (DESTINATIONS_SIZE_MAX + 1)]), (26, []), (26, [b"r"]), (26, ["x" * 256])],
        *[(27, ["queues:a", "a"]), (27, ["events:a", ""]), (27, [5, "a"]), (27, ["events:a", 5])],
        *[(28, ["a"]), (28, []), (28, ["events:" + "x" * 510])],
    ],
)
def test_routing_rule_with_wrong_values_is_malformed(kind: int, items: list[object]) -> None:
    with pytest.raises(MalformedFrame, match="has wrong values"):
        decode_entry(by_hand(kind, msgpack.packb(items)))


@pytest.mark.parametrize("command", [SetRoute("r", ""), DeleteRoute("x" * 256), SetBinding("a", "b"), DeleteBinding("")])
def test_routing_rule_out_of_range_is_not_written(command: SmallCommand) -> None:
    with pytest.raises(LocalProtocolError, match="out of its range"):
        build(command)
