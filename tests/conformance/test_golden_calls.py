"""Golden bytes of commands and queries: what responders and callers are sent, and the tables between nodes."""

from __future__ import annotations

import msgpack

from tests.conformance.test_golden_frames import GOLDEN, plain
from zmqbroker.wire.call_frames import (
    CANCELLED_NOTHING,
    FAILED,
    GIVEN,
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
    encode_answers,
    encode_calls,
    encode_cancels,
    encode_target,
)

TIME_UNIX_NS = 1_700_000_000_000_000_000
CALL = 2**61 + 5


def headers(name: str) -> list[bytes]:
    return [bytes.fromhex(item["header"]) for item in GOLDEN["client"] if item["name"] == name]


def test_golden_pushes_and_answers_are_what_clients_are_sent() -> None:
    said = {"id": "a-1", "metadata": "m", "tags": {"eu": "yes"}, "client_id": "till-1", "trace": "00-4bf9"}
    items = msgpack.packb({"kind": "queries", "channel": "price", **said})
    assert headers("CALLED") == [called_frame(CALL, items, TIME_UNIX_NS, 100_000, 70_000)]
    assert headers("CANCELLED") == [cancelled_frame(CALL, 70_000), CANCELLED_NOTHING]
    assert headers("ANSWER") == [
        answer_frame(7, NO_ITEMS, 1, last=True),
        answer_frame(7, msgpack.packb({"metadata": "m", "tags": {"eu": "yes"}}), 1, last=True, cache_hit=True),
        answer_frame(7, msgpack.packb({"executed": False}), 2, last=False),
        answer_frame(7, msgpack.packb({"error": "no such price"}), 1, last=True),
    ]


def test_golden_tables_between_nodes_are_the_calls_and_answers_they_stand_for() -> None:
    tables = {item["name"]: plain(item["fields"])["table"] for item in GOLDEN["peer"] if "table" in item["fields"]}
    price, job = ({"kind": kind, "channel": name} for kind, name in (("queries", "price"), ("commands", "job")))
    calls = [
        PeerCall(CALL, TIME_UNIX_NS, 100_000, encode_target(3, "price", ("", "billing")), msgpack.packb(price), b"hello"),
        PeerCall(CALL + 1, TIME_UNIX_NS, 100_000, encode_target(2, "job", ("",)), msgpack.packb(job), b""),
    ]
    answers = [
        PeerAnswer(CALL, 1, LAST, NO_ITEMS, b"hello"),
        PeerAnswer(CALL + 1, 2, 0, msgpack.packb({"metadata": "m"}), b""),
        PeerAnswer(CALL + 2, 0, FAILED | GIVEN, NO_ITEMS, b""),
    ]
    assert encode_calls(calls) == (tables["CALL"], [])
    assert decode_calls(tables["CALL"], []) == calls
    assert encode_answers(answers) == (tables["ANSWER"], [])
    assert decode_answers(tables["ANSWER"], []) == answers
    assert encode_cancels([CALL, CALL + 1]) == tables["CANCEL"]
    assert decode_cancels(tables["CANCEL"]) == (CALL, CALL + 1)
