"""Requests that are wrong in their header or their fields: a named error with the value, counted, and the node goes on."""

from __future__ import annotations

import socket
import struct
from typing import Any

import msgpack
import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.integration.wild import Wild, header, only_node, refusal, refusals, serves, short, unique_channel
from tests.processes import Cluster
from tests.raw import new_request_id
from tests.unit.wire import test_queue_requests as queue_requests
from tests.unit.wire import test_rule_requests as rule_requests
from zmqbroker.wire.frames import Reply, Request

PING, SEND, RECEIVE, ACK = Request.PING, Request.SEND, Request.RECEIVE, Request.ACK


@pytest.mark.parametrize(
    ("frames", "request_id", "said"),
    [
        ([b""], 0, "0 bytes"),
        ([b"", b""], 0, "0 bytes"),
        ([b"x"], 0, "1 bytes"),
        ([header(PING)[:11]], 0, "11 bytes"),
        ([b"garbage of some length"], 0, "b'ga'"),
        ([header(PING, magic=b"ZX")], 0, "b'ZX'"),
        ([header(SEND, b"\x80")], 7, "SEND has 0 body frames"),
        ([header(SEND, b"\x80"), b"one", b"two"], 7, "SEND has 2 body frames"),
        ([header(Request.SEND_BATCH)], 7, "SEND_BATCH has 0 body frames"),
        ([header(PING), b"body"], 7, "PING has 1 body frames"),
        ([header(PING), *[b"x"] * 1000], 7, "PING has 1000 body frames"),
        ([header(RECEIVE, b"\x80"), b""], 7, "RECEIVE has 1 body frames"),
        ([header(PING, b"\xc1")], 7, "1 bytes are not valid msgpack"),
        ([header(PING, b"\x81\xa1k")], 7, "not valid msgpack"),
        ([header(PING, b"\x80\x80")], 7, "not valid msgpack"),
        ([header(PING, b"\xa2\xff\xff")], 7, "not valid msgpack"),
        ([header(PING, msgpack.packb([1, 2]))], 7, "not a msgpack map: [1, 2]"),
        ([header(PING, b"\xc0")], 7, "not a msgpack map: None"),
        ([header(PING, msgpack.packb({b"key": 1}))], 7, "b'key'"),
        ([header(PING, msgpack.packb({5: 1}))], 7, "not valid msgpack"),
        ([header(PING, msgpack.packb({"key": msgpack.ExtType(5, b"x")}))], 7, "extension type 5"),
        ([header(PING, b"\x81\xa1k\xdd\xff\xff\xff\xff")], 7, "not valid msgpack"),
        ([header(PING, b"\x81\xa1k" + b"\xdc\xff\xff" * 5000)], 7, "not valid msgpack"),
        ([header(PING, b"\x81\xa1k" + b"\x91" * 100_000 + b"\xc0")], 7, "not valid msgpack"),
        ([header(PING, msgpack.packb({"key": [0] * 65_537}))], 7, "65537"),
        ([header(PING, msgpack.packb({"key": bytes((1 << 20) + 1)}))], 7, f"limit of {1 << 20}"),
    ],
    ids=short,
)
def test_frames_that_are_no_request_are_malformed(solo: Cluster, frames: list[bytes], request_id: int, said: str) -> None:
    (answer,) = refusals(only_node(solo), "MALFORMED_FRAME", [frames])
    assert said in answer.fields["message"]
    assert answer.request_id == request_id
    assert (answer.fields["retryable"], answer.fields["outcome_unknown"]) == (False, False)


@pytest.mark.parametrize("version", [0, 2, 255])
def test_version_that_is_not_spoken_is_refused_with_those_that_are(solo: Cluster, version: int) -> None:
    (answer,) = refusals(only_node(solo), "UNSUPPORTED_VERSION", [[header(PING, b"\xc1", version=version)]])
    assert f"version {version}" in answer.fields["message"]
    assert (answer.fields["minimum"], answer.fields["maximum"], answer.request_id) == (1, 1, 7)


@pytest.mark.parametrize("command", [0x00, 0x70, 0x7F, Reply.SENT, Reply.ERROR])
def test_command_that_does_not_exist_is_unknown(solo: Cluster, command: int) -> None:
    (answer,) = refusals(only_node(solo), "UNKNOWN_COMMAND", [[header(command), b"body"]])
    assert f"{command:#04x}" in answer.fields["message"]


@pytest.mark.parametrize(
    ("command", "fields", "said"),
    [
        (Request.HELLO, {"session": b"x" * 15}, "field session has 15 bytes"),
        (Request.HELLO, {"session": "x" * 16}, "field session must be binary"),
        (Request.HELLO, {"client_id": "x" * 256}, "field client_id has 256 bytes"),
        (SEND, {}, "field channel is missing"),
        (SEND, {"channel": 5}, "field channel must be text: 5"),
        (SEND, {"producer": "1"}, "field producer must be an integer: '1'"),
        (SEND, {"producer": -1}, "field producer is -1"),
        (SEND, {"producer": 1}, "field sequence is 0 with producer 1"),
        (SEND, {"sequence": 9}, "field sequence is 9 with producer 0"),
        (SEND, {"producer": 1.5, "sequence": 1}, "1.5"),
        (SEND, {"id": "ü" * 128}, "field id has 256 bytes"),
        (SEND, {"metadata": 5}, "field metadata must be text: 5"),
        (SEND, {"metadata": "x" * 65_536}, "limit is 65535"),
        (SEND, {"tags": ["a"]}, "field tags must be a map of text: ['a']"),
        (SEND, {"tags": {"a": 1}}, "field tags must be a map of text: {'a': 1}"),
        (SEND, {"client_id": "x" * 256}, "field client_id has 256 bytes"),
        (SEND, {"client_id": b"me"}, "field client_id must be text: b'me'"),
        (SEND, {"trace": "x" * 1025}, "field trace has 1025 bytes"),
        (SEND, {"trace": None}, "field trace must be text: None"),
        (SEND, {"group": 5}, "field group must be text: 5"),
        (SEND, {"group": "ü" * 128}, "field group has 256 bytes, the limit is 255"),
        (SEND, {"forward": "yes"}, "field forward must be true or false: 'yes'"),
        *(
            (command, {name: value}, said)
            for command in (SEND, Request.SEND_BATCH)
            for name, value, said in (
                ("expected_sequence", -1, "field expected_sequence is -1, allowed is 0 to"),
                ("expected_sequence", None, "field expected_sequence must be an integer: None"),
                ("expected_sequence", "7", "field expected_sequence must be an integer: '7'"),
                ("expected_sequence", 1.5, "field expected_sequence must be an integer: 1.5"),
                ("confirm", "", "field confirm is '', it must be one of quorum, none"),
                ("confirm", " none", "field confirm is ' none', it must be one of quorum, none"),
                ("confirm", "x" * 300, "field confirm is 'xxx"),
                ("confirm", False, "field confirm must be text: False"),
            )
        ),
        (SEND, {"confirm": "none", "explain": True}, "field explain is true with confirm 'none'"),
        (SEND, {"confirm": "none", "producer": 5, "sequence": 1}, "field confirm is 'none' with producer 5"),
        (RECEIVE, {"min": 0}, "field min is 0, allowed is 1 to 65535"),
        (RECEIVE, {"max": 0}, "field max is 0, allowed is 1 to 65535"),
        (RECEIVE, {"min": 65_536}, "field min is 65536"),
        (RECEIVE, {"max": 2**64 - 1}, f"field max is {2**64 - 1}"),
        (RECEIVE, {"max": -1}, "field max is -1"),
        (RECEIVE, {"max": "10"}, "field max must be an integer: '10'"),
        (RECEIVE, {"max": True}, "field max must be an integer: True"),
        (RECEIVE, {"max": None}, "field max must be an integer: None"),
        (RECEIVE, {"max_bytes": 0}, "field max_bytes is 0"),
        (RECEIVE, {"max_bytes": (16 << 20) + 1}, "field max_bytes is 16777217"),
        (RECEIVE, {"wait_ms": -1}, "field wait_ms is -1"),
        (RECEIVE, {"wait_ms": 3_600_001}, "field wait_ms is 3600001"),
        (RECEIVE, {"auto_ack": "yes"}, "field auto_ack must be true or false: 'yes'"),
        (RECEIVE, {"visibility_ms": 99}, "field visibility_ms is 99"),
        (RECEIVE, {"visibility_ms": 43_200_001}, "field visibility_ms is 43200001"),
        (RECEIVE, {"consumer": 2**32}, "field consumer is 4294967296"),
        (RECEIVE, {"plain": 1}, "field plain must be true or false: 1"),
        (RECEIVE, {"consumer_priority": 10}, "field consumer_priority is 10, allowed is 0 to 9"),
        (RECEIVE, {"consumer_priority": "high"}, "field consumer_priority must be an integer: 'high'"),
        (ACK, {}, "field receipts must be a list of 1 to 4096 receipts: None"),
        (ACK, {"receipts": []}, "field receipts must be a list of 1 to 4096 receipts: []"),
        (ACK, {"receipts": "all"}, "'all'"),
        (ACK, {"receipts": [[1, 1, 1]] * 4097}, "field receipts"),
        (ACK, {"receipts": [[1, 1]]}, "not [assigning, first, last]: [1, 1]"),
        (ACK, {"receipts": [[1, 1, -1]]}, "not [assigning, first, last]: [1, 1, -1]"),
        (ACK, {"receipts": [[1, 1, "1"]]}, "not [assigning, first, last]: [1, 1, '1']"),
        (Request.OPEN_PRODUCER, {}, "field producer is missing"),
        (Request.OPEN_PRODUCER, {"producer": 0}, "field producer is 0"),
        (Request.STATS, {"channel": b"bytes"}, "field channel must be text: b'bytes'"),
        (Request.CLOSE, {"consumer": -1}, "field consumer is -1"),
        (Request.CLOSE, {"consumer": "all"}, "field consumer must be an integer: 'all'"),
        (Request.CLOSE, {"request": 7}, "field request is 7 and field consumer is missing"),
    ],
    ids=short,
)
def test_field_that_breaks_its_rule_is_named_with_its_value(
    solo: Cluster, command: Request, fields: dict[str, Any], said: str
) -> None:
    given_fields = fields if "missing" in said else {"channel": "orders", **fields}
    bodies = [b"body"] if command in (SEND, Request.SEND_BATCH) else []
    assert said in refusal(only_node(solo), "INVALID_REQUEST", command, given_fields, bodies).fields["message"]


def told_of(wild: Wild) -> tuple[Any, Any]:
    """All channels with their counters and settings, and the messages of one of them; without what time alone changes."""
    rows = wild.ask(Request.LIST_CHANNELS).fields["channels"]
    messages = wild.ask(Request.PEEK, {"channel": "q", "max": 100, "plain": True})
    of_time = {"applied_index": 0, "rate_window_ms": 0, "sent_per_s": 0, "delivered_per_s": 0}
    return [{**row, **of_time} for row in rows], (messages.fields, messages.bodies)


@pytest.mark.parametrize("command", queue_requests.NEW, ids=lambda command: command.name)
def test_queue_request_with_a_field_that_breaks_its_rule_changes_nothing(solo: Cluster, command: Request) -> None:
    # No integer over 64 bits has a form in msgpack.
    invalid = [row for row in queue_requests.RANGES if row[0] == command and str(2**64) not in repr(row[1])]
    names = [(name, channel) for of, name in queue_requests.NAMING if of == command for channel in ("a b", "x" * 256, "_sys.x")]
    node = only_node(solo)
    with Wild(node.endpoint) as wild:
        wild.ask(SEND, {"channel": "q", "delay_ms": 3_600_000}, [b"one"])
        wild.ask(SEND, {"channel": "q"}, [b"two"])
        before = told_of(wild)
        for _, fields, said in invalid:
            answer = wild.ask(command, queue_requests.complete(command, fields))
            assert (answer.code, answer.fields["retryable"]) == ("INVALID_REQUEST", False)
            assert answer.fields["message"].startswith(said)
        for name, channel in names:
            fields = {"settings": {name: channel}} if name == "dead_letter" else {name: channel}
            answer = wild.ask(command, queue_requests.complete(command, fields))
            assert answer.code == "INVALID_CHANNEL"
            assert repr(channel)[:70] in answer.fields["message"]
        assert told_of(wild) == before
    assert serves(node)


@pytest.mark.parametrize(
    "command",
    [command for command in queue_requests.NEW if command not in (Request.CREATE_CHANNEL, Request.LIST_CHANNELS)],
    ids=lambda command: command.name,
)
def test_queue_request_about_a_channel_that_is_not_there_is_named(solo: Cluster, command: Request) -> None:
    channel = unique_channel()
    answer = refusal(only_node(solo), "CHANNEL_NOT_FOUND", command, queue_requests.complete(command, {"channel": channel}))
    assert repr(channel) in answer.fields["message"]


@pytest.mark.parametrize("command", rule_requests.RULES, ids=lambda command: command.name)
def test_rule_request_with_a_field_that_breaks_its_rule_changes_nothing(solo: Cluster, command: Request) -> None:
    invalid = [row for row in rule_requests.RANGES if row[0] == command and str(2**64) not in repr(row[1])]
    node = only_node(solo)
    with Wild(node.endpoint) as wild:
        before = told_of_rules(wild)
        for _, fields, said in invalid:
            answer = wild.ask(command, rule_requests.complete(command, fields), rule_requests.bodies_of(command))
            assert (answer.code, answer.fields["retryable"]) == ("INVALID_REQUEST", False)
            assert answer.fields["message"].startswith(said)
        assert told_of_rules(wild) == before
    assert serves(node)


def told_of_rules(wild: Wild) -> tuple[Any, Any]:
    """All schedules and defaults."""
    return wild.ask(Request.LIST_SCHEDULES).fields, wild.ask(Request.LIST_DEFAULTS).fields


BAD_NAMES = [
    *("", "x" * 256, "ü" * 128),
    *("a b", " a", "a\t", "a\n", "\x00", "a\x1f", "a\x7f", "a\x80", "a\x85b", "a\x9f"),
    *("a\u00a0b", "a\u1680", "a\u2003", "a\u2028", "a\u3000"),
    *("*", "a.*", "a>", "a;b", "a.", ".", "_sys.", "_sys.x"),
]


@pytest.mark.parametrize("name", BAD_NAMES, ids=short)
def test_channel_name_that_breaks_a_rule_is_refused_by_every_request(solo: Cluster, name: str) -> None:
    fields = {"channel": name, "producer": 0, "sequence": 0, "receipts": [[1, 1, 1]]}
    for command in (SEND, RECEIVE, ACK, Request.STATS):
        answer = refusal(only_node(solo), "INVALID_CHANNEL", command, fields, [b"body"] if command == SEND else [])
        assert repr(name)[:70] in answer.fields["message"]
    refusal(only_node(solo), "INVALID_CHANNEL", Request.OPEN_PRODUCER, {**fields, "producer": 1})


@pytest.mark.parametrize("name", ["a", "x" * 255, "ü" * 127, ".a", "a..b", "_sysx", "订单.東京", "a/b:c=d,e{f}"], ids=short)
def test_channel_name_within_the_rules_is_taken(solo: Cluster, name: str) -> None:
    with Wild(only_node(solo).endpoint) as wild:
        assert wild.ask(SEND, {"channel": name}, [b"x"]).command == Reply.SENT
        assert wild.ask(Request.STATS, {"channel": name}).fields["channel"] == name


def test_stats_of_a_channel_that_nobody_used_is_not_found(solo: Cluster) -> None:
    channel = unique_channel()
    assert repr(channel) in refusal(only_node(solo), "CHANNEL_NOT_FOUND", Request.STATS, {"channel": channel}).fields["message"]


def test_field_that_is_not_known_is_ignored(solo: Cluster) -> None:
    with Wild(only_node(solo).endpoint) as wild:
        answer = wild.ask(SEND, {"channel": unique_channel(), "colour": "blue", "key": None}, [b"x"])
    assert answer.command == Reply.SENT


def test_many_bad_requests_at_once_are_all_answered(solo: Cluster) -> None:
    answers = refusals(only_node(solo), "UNKNOWN_COMMAND", [[header(0x55, request_id=number)] for number in range(1, 1001)])
    assert sorted(answer.request_id for answer in answers) == list(range(1, 1001))


#: Frames that begin well are the ones that get far.
_FIELDS = st.dictionaries(
    st.sampled_from(
        [
            *("channel", "min", "max", "producer", "sequence", "receipts", "tags", "session", "consumer", "id"),
            *("to", "delay_ms", "visibility_ms", "settings", "sequences", "first"),
        ]
    ),
    st.dictionaries(st.sampled_from(["delay_ms", "overflow", b"binary"]), st.integers(-2, 70_000), max_size=2)
    | st.none()
    | st.booleans()
    | st.integers(-2, 70_000)
    | st.text(max_size=5)
    | st.binary(max_size=17)
    | st.just([[1, 1, 1]]),
    max_size=5,
)
_FRAME = st.one_of(
    st.binary(max_size=80),
    st.builds(header, st.integers(0, 255), st.binary(max_size=40), version=st.integers(0, 2)),
    st.builds(header, st.integers(1, 0x1A), _FIELDS.map(msgpack.packb)),
)


@settings(max_examples=300, deadline=None)
@given(frames=st.lists(_FRAME, min_size=1, max_size=3), kind=st.sampled_from([zmq.DEALER, zmq.REQ]))
def test_random_frames_are_answered_and_do_no_harm(wild_pair: dict[int, Wild], frames: list[bytes], kind: int) -> None:
    wild = wild_pair[kind]
    wild.send_frames(frames)
    assert wild.receive() is not None, "every request gets a reply"
    wild.send_frames([header(PING, request_id=1)])
    assert wild.next_answer().command == Reply.PONG


@pytest.fixture(scope="module")
def wild_pair(solo: Cluster) -> Any:
    """A DEALER and a REQ that live through all random frames; afterwards the node must still serve others."""
    node = only_node(solo)
    with Wild(node.endpoint) as dealer, Wild(node.endpoint, zmq.REQ) as request:
        yield {zmq.DEALER: dealer, zmq.REQ: request}
    assert serves(node)
    assert node.running


def connect(endpoint: str) -> socket.socket:
    host, port = endpoint.removeprefix("tcp://").split(":")
    return socket.create_connection((host, int(port)), 15)


@pytest.mark.parametrize("key", ["ZMQBROKER_LISTEN_CLIENT", "ZMQBROKER_LISTEN_PEER"])
@pytest.mark.parametrize("words", [b"", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\xff" + bytes(300), bytes(range(256)) * 40])
def test_connections_that_do_not_speak_zeromq_do_no_harm(solo: Cluster, key: str, words: bytes) -> None:
    node = only_node(solo)
    connections = [connect(node.environment[key]) for _ in range(20)]
    try:
        for connection in connections:
            connection.sendall(words)
        assert serves(node)
    finally:
        for connection in connections:
            connection.close()
    assert serves(node)


def test_frame_of_more_than_80_mib_closes_its_connection_and_no_other(solo: Cluster) -> None:
    node = only_node(solo)
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
    ready = b"\x05READY\x0bSocket-Type" + struct.pack(">I", 6) + b"DEALER"
    with Wild(node.endpoint) as other, connect(node.endpoint) as connection:
        connection.sendall(greeting + b"\x04" + bytes([len(ready)]) + ready)
        connection.sendall(b"\x02" + struct.pack(">Q", (80 << 20) + 1))
        while connection.recv(4096):
            pass  # its greeting, then the end
        assert other.ask(PING, request_id=new_request_id()).command == Reply.PONG
    assert serves(node)
