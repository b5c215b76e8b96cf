"""Requests about events stores that are wrong: a named error with the value, counted, and the node goes on."""

from __future__ import annotations

import pytest

from tests.integration.wild import only_node, refusal, refusals, unique_channel
from tests.processes import Cluster
from tests.raw import Raw
from tests.unit.wire import test_store_requests as store_requests
from zmqbroker.wire.frames import Reply, Request, encode_header

READ, OPEN, RESET = Request.READ, Request.OPEN_CONSUMER, Request.RESET_CONSUMER


def test_every_field_that_breaks_its_rule_is_refused_by_name_and_value(solo: Cluster) -> None:
    frames = [[encode_header(command, 7, fields)] for command, fields, _ in store_requests.BAD]
    answers = refusals(only_node(solo), "INVALID_REQUEST", frames)
    for (_, _, said), answer in zip(store_requests.BAD, answers, strict=True):
        assert said in answer.fields["message"]


def test_every_name_that_breaks_a_rule_is_refused(solo: Cluster) -> None:
    asked = [(command, name) for command in (READ, OPEN, RESET) for name in store_requests.BAD_NAMES]
    frames = [[encode_header(command, 7, {"channel": name, "start": "first"})] for command, name in asked]
    for (_, name), answer in zip(asked, refusals(only_node(solo), "INVALID_CHANNEL", frames), strict=True):
        assert repr(name) in answer.fields["message"]


def test_body_frame_of_a_request_that_has_none_is_refused(solo: Cluster) -> None:
    refusals(only_node(solo), "MALFORMED_FRAME", [[encode_header(command, 7, {}), b"x"] for command in (READ, OPEN, RESET)])


def test_what_is_not_there_or_is_none_is_refused_by_name(solo: Cluster) -> None:
    node, name = only_node(solo), f"events_store:{unique_channel()}"
    refusal(node, "CHANNEL_NOT_FOUND", RESET, {"channel": f"{name}>billing", "start": "first"})
    refusal(node, "CHANNEL_NOT_FOUND", Request.RECEIVE, {"channel": f"{name}>billing"})
    with Raw(node.endpoint) as raw:
        assert raw.ask(OPEN, {"channel": f"{name}>billing"}).fields["created"]
    refusal(node, "UNSUPPORTED", Request.RECEIVE, {"channel": name})
    refusal(node, "UNSUPPORTED", Request.SEND, {"channel": f"{name}>billing"}, [b"x"])
    answer = refusal(node, "INVALID_REQUEST", READ, {"channel": name, "start": "last", "key": "k"})
    assert "keep_latest" in answer.fields["message"]


def test_exclusive_consumer_of_another_session_is_taken(solo: Cluster) -> None:
    node, name = only_node(solo), f"events_store:{unique_channel()}>billing"
    with Raw(node.endpoint) as owner:
        assert owner.ask(OPEN, {"channel": name, "exclusive": True, "consumer": 3}).command == Reply.CONSUMER
        refusal(node, "CONSUMER_TAKEN", Request.RECEIVE, {"channel": name, "consumer": 3})
        refusal(node, "CONSUMER_TAKEN", Request.ACK, {"channel": name, "receipts": [[1, 1, 1]]})


@pytest.mark.parametrize("value", [1, 2**64 - 1])
def test_sequence_that_is_not_there_yet_is_waited_for_and_not_refused(solo: Cluster, value: int) -> None:
    channel = f"events_store:{unique_channel()}"
    with Raw(only_node(solo).endpoint) as raw:
        answer = raw.ask(READ, {"channel": channel, "start": "sequence", "value": value, "wait_ms": 50})
    assert (answer.command, answer.fields["pieces"], answer.fields["next"]) == (Reply.EVENTS_READ, [], value)
