"""Of events, calls, stores and routes: damaged batches, and requests that come when nobody expects them. All are named.

The node goes on.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.integration.wild import Wild, batch, only_node, resealed, serves, unique_channel
from tests.processes import Cluster
from tests.raw import Raw
from zmqbroker.wire.frames import Reply, Request

#: Requests whose batch goes elsewhere than to the queue that it names.
ELSEWHERE: list[tuple[Request, dict[str, Any]]] = [
    (Request.PUBLISH, {"confirm": True}),
    (Request.PUBLISH, {}),
    (Request.SEND_BATCH, {"to": "damaged.queue;events_store:damaged.store;events:damaged.events"}),
]
DAMAGE = {"MALFORMED_FRAME", "CHECKSUM_MISMATCH"}


@pytest.mark.parametrize(("command", "fields"), ELSEWHERE, ids=["confirmed", "published", "routed"])
def test_batch_that_is_cut_or_has_a_flipped_bit_reaches_nobody(solo: Cluster, command: Request, fields: dict[str, Any]) -> None:
    node, frame = only_node(solo), batch("damaged.events", b"one", b"two")
    damaged = [frame[:size] for size in range(len(frame))]
    damaged += [frame[:at] + bytes([frame[at] ^ 1 << at % 8]) + frame[at + 1 :] for at in range(len(frame))]
    with Raw(node.endpoint) as raw, Wild(node.endpoint) as listening:
        assert listening.ask(Request.SUBSCRIBE, {"subscription": 1, "pattern": ">"}).command == Reply.SUBSCRIBED
        asked = [raw.send(command, fields, [one]) for one in damaged]
        answers = raw.receive_all(asked, 30)
        assert {answers[number].code for number in asked} == DAMAGE
        for channel in ("damaged.queue", "events_store:damaged.store"):
            assert raw.ask(Request.STATS, {"channel": channel}).code == "CHANNEL_NOT_FOUND"
        raw.ask(Request.PUBLISH, {"confirm": True}, [batch("damaged.end", b"end")])
        assert batch("damaged.end", b"end") in listening.next_answer().bodies, "nothing else was pushed before"
    assert serves(node)


@pytest.fixture(scope="module")
def raw(solo: Cluster) -> Iterator[Raw]:
    """One connection for all random batches; others are served afterwards."""
    with Raw(only_node(solo).endpoint) as connection:
        yield connection
    assert serves(only_node(solo))


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_batches_damaged_at_random_and_sealed_again_are_answered(raw: Raw, data: st.DataObject) -> None:
    command, fields = data.draw(st.sampled_from([ELSEWHERE[0], ELSEWHERE[2]]))
    copy = bytearray(batch("damaged.again", b"one", b"two two"))
    for _ in range(data.draw(st.integers(1, 3))):
        copy[data.draw(st.integers(8, len(copy) - 1))] = data.draw(st.integers(0, 255))
    assert raw.ask(command, fields, [resealed(copy)]).command in (Reply.PUBLISHED, Reply.ROUTED, Reply.ERROR)


def test_request_that_comes_when_nobody_expects_it_is_refused_by_name(solo: Cluster) -> None:
    node, name = only_node(solo), unique_channel()
    store, absent = f"events_store:{name}", unique_channel()
    cases: list[tuple[Request, dict[str, Any], list[bytes], str, str]] = [
        (Request.GRANT, {"subscription": 9, "credit": 1, "credit_bytes": 1}, [], "INVALID_REQUEST", "field subscription is 9"),
        (Request.SUBSCRIBE, {"subscription": 1, "pattern": "other"}, [], "INVALID_REQUEST", "field subscription is 1"),
        (Request.RESPOND, {"call": 1}, [b""], "UNKNOWN_CALL", "field call is 1"),
        (Request.CALL, {"kind": "commands", "channel": absent}, [b""], "NO_RESPONDER", repr(absent)),
        (Request.RECEIVE, {"channel": store}, [], "UNSUPPORTED", store),
        (Request.ACK, {"channel": store, "receipts": [[1, 1, 1]]}, [], "UNSUPPORTED", store),
        (Request.ACK, {"channel": f"{store}>c", "receipts": [[1, 1, 1]]}, [], "STALE_RECEIPT", ""),
        (Request.SEND, {"channel": f"{store}>c"}, [b""], "UNSUPPORTED", f"{store}>c"),
        (Request.OPEN_CONSUMER, {"channel": name}, [], "INVALID_REQUEST", repr(name)),
        (Request.OPEN_CONSUMER, {"channel": store}, [], "INVALID_REQUEST", repr(store)),
        (Request.RESET_CONSUMER, {"channel": f"{store}>d", "start": "first"}, [], "CHANNEL_NOT_FOUND", f"{store}>d"),
        (Request.READ, {"channel": f"{store}>c"}, [], "INVALID_REQUEST", f"{store}>c"),
        (Request.DELETE_ROUTE, {"name": absent}, [], "ROUTE_NOT_FOUND", absent),
        (Request.SEND, {"to": f"routes:{absent}"}, [b""], "ROUTE_NOT_FOUND", absent),
        (Request.OPEN_PRODUCER, {"to": f"routes:{absent}", "producer": 1}, [], "ROUTE_NOT_FOUND", absent),
        (Request.SEND, {"channel": f"commands:{name}"}, [b""], "INVALID_CHANNEL", f"commands:{name}"),
    ]
    with Raw(node.endpoint) as raw:
        assert raw.ask(Request.SEND, {"channel": store}, [b"event"]).command == Reply.SENT
        assert raw.ask(Request.OPEN_CONSUMER, {"channel": f"{store}>c", "start": "first"}).command == Reply.CONSUMER
        assert raw.ask(Request.SUBSCRIBE, {"subscription": 1, "pattern": "one"}).command == Reply.SUBSCRIBED
        for command, fields, bodies, code, said in cases:
            answer = raw.ask(command, fields, bodies)
            assert (answer.code, said in answer.fields["message"]) == (code, True), (command.name, fields, answer.fields)
        raw.send(Request.CANCEL, {"call": 99})  # nobody waits for an answer to it
        assert raw.ask(Request.UNSUBSCRIBE, {"subscription": 7}).fields == {"missed": 0}
        assert raw.ask(Request.DELETE_BINDING, {"source": "events:absent"}).fields["changed"] is False
    assert serves(node)


def test_messages_of_another_consumer_can_not_be_acked(solo: Cluster) -> None:
    name = f"events_store:{unique_channel()}"
    with Raw(only_node(solo).endpoint) as holder, Raw(only_node(solo).endpoint) as other:
        holder.ask(Request.SEND, {"channel": name}, [b"event"])
        for consumer in "ab":
            holder.ask(Request.OPEN_CONSUMER, {"channel": f"{name}>{consumer}", "start": "first"})
        (message,) = holder.ask(Request.RECEIVE, {"channel": f"{name}>a", "plain": True}).fields["messages"]
        receipt = {"receipts": [[message["assigning"], message["sequence"], message["sequence"]]]}
        assert other.ask(Request.ACK, {"channel": f"{name}>a", **receipt}).code == "STALE_RECEIPT"
        assert holder.ask(Request.ACK, {"channel": f"{name}>b", **receipt}).code == "STALE_RECEIPT"
        assert holder.ask(Request.ACK, {"channel": f"{name}>a", **receipt}).fields["count"] == 1
