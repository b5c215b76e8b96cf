"""Answers and calls as values: what ANSWER stands for, what a handler may give."""

from __future__ import annotations

from typing import Any

import pytest

from zmqbroker.client.answer import Answer as Reply
from zmqbroker.client.call_values import Answer, Called, as_answer, read_answer, respond_request
from zmqbroker.errors import InvalidRequest, LocalProtocolError, RemoteProtocolError
from zmqbroker.wire.requests import RespondRequest


@pytest.mark.parametrize(
    ("fields", "answer"),
    [
        ({}, Answer(b"body")),
        ({"error": "no"}, Answer(b"body", executed=False, error="no")),
        ({"error": "no", "executed": True}, Answer(b"body", error="no")),
        ({"executed": False, "cache_hit": True}, Answer(b"body", executed=False, cache_hit=True)),
        ({"metadata": "m", "tags": {"a": "b"}, "part": 3, "last": False}, Answer(b"body", "m", {"a": "b"}, part=3, last=False)),
    ],
)
def test_answer_of_a_reply_says_what_its_responder_did(fields: dict[str, Any], answer: Answer) -> None:
    assert read_answer(Reply(fields, [b"body"])) == answer


@pytest.mark.parametrize(
    ("fields", "bodies"),
    [({}, []), ({}, [b"", b""]), ({"error": 5}, [b""]), ({"executed": 1}, [b""]), ({"part": "1"}, [b""]), ({"last": 0}, [b""])],
)
def test_answer_that_is_none_is_the_nodes_fault(fields: dict[str, Any], bodies: list[bytes]) -> None:
    with pytest.raises(RemoteProtocolError, match=f"ANSWER has {len(bodies)} bodies and says"):
        read_answer(Reply(fields, bodies))


def test_handler_gives_bytes_an_answer_or_nothing() -> None:
    given = Answer(b"x", "m")
    assert as_answer(given) is given
    assert as_answer(None) == Answer()
    assert as_answer(bytearray(b"x")) == Answer(b"x")
    for wrong in (5, "text", [b"x"]):
        with pytest.raises(LocalProtocolError, match="an answer must be bytes, an Answer or None, not "):
            as_answer(wrong)


def test_answer_is_asked_for_without_what_goes_without_saying() -> None:
    assert respond_request(7, Answer(b"x"), last=True) == RespondRequest(7, b"x")
    assert respond_request(7, Answer(b"x", "m", {"a": "b"}, executed=False), last=False) == RespondRequest(
        7, b"x", "m", {"a": "b"}, executed=False, last=False
    )
    assert respond_request(7, Answer(executed=False, error="no"), last=True) == RespondRequest(7, b"", error="no")
    assert respond_request(7, Answer(error="no"), last=True) == RespondRequest(7, b"", error="no")
    assert respond_request(7, Answer(error="no"), last=True, executed=True) == RespondRequest(7, b"", error="no", executed=True)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Answer(metadata="m" * 65_536), "field metadata has 65536 bytes"),
        (Answer(metadata=5), "field metadata must be text: 5"),  # type: ignore[arg-type]
        (Answer(tags={"a": 1}), "field tags must be a map of text"),  # type: ignore[dict-item]
    ],
    ids=["long", "type", "tags"],
)
def test_answer_that_a_node_would_refuse_is_refused_here(answer: Answer, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        respond_request(7, answer, last=True)


def test_answer_with_a_long_error_is_cut_between_characters() -> None:
    error = respond_request(7, Answer(error="x" + "ж" * 3000), last=True).error
    assert error == "x" + "ж" * 2047


def test_call_tells_what_its_caller_said() -> None:
    said = {"channel": "svc", "id": "i", "metadata": "m", "tags": {"a": "b"}, "client_id": "c", "trace": "t"}
    call = Called({**said, "deadline_unix_ns": 5, "remaining_ms": 1500}, b"body", 7, 10.0)
    told = (call.channel, call.id, call.metadata, call.tags, call.client_id, call.trace)
    assert told == ("svc", "i", "m", {"a": "b"}, "c", "t")
    assert (call.body, call.call, call.deadline_unix_ns) == (b"body", 7, 5)
    assert [call.left_ms(now_s) for now_s in (10.0, 11.0, 12.0)] == [1500, 500, 0]
    odd = Called({"metadata": 5, "tags": [], "deadline_unix_ns": "x", "remaining_ms": None}, b"", 7, 10.0)
    assert (odd.metadata, odd.tags, odd.deadline_unix_ns, odd.left_ms(10.0), odd.channel) == (None, {}, 0, 0, "")
