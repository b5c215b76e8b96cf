"""Commands and queries at nodes without sockets: what only a lost link, or a full pipe, brings about."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.server.realtime_sites import Site, Sites
from zmqbroker.errors import RequestError
from zmqbroker.server import call_post
from zmqbroker.server.calls import PROBE_NS, is_call
from zmqbroker.wire.frames import Reply, Request, decode_header, encode_header
from zmqbroker.wire.peer import PeerKind
from zmqbroker.wire.requests import SubscribeRequest, UnsubscribeRequest

Came = tuple[int, int, dict[str, Any], list[bytes]]
MS = 1_000_000
JOB = {"kind": "commands", "channel": "job"}


@pytest.fixture
def trio() -> Sites:
    return Sites("a", "b", "c")


def settle(sites: Sites, now_ns: int = 0) -> None:
    """Everything that follows, until nothing does."""
    for _ in range(6):
        for site in sites:
            site.realtime.calls.flush()
        sites.run(now_ns)


def take(sites: Sites, site: Site, client: bytes, command: Request, fields: dict[str, Any], body: bytes, number: int) -> None:
    assert site.realtime.calls.take([client, encode_header(command, number, fields), body], "me", 0)
    settle(sites)


def call(sites: Sites, site: Site, number: int = 1, client: bytes = b"caller", body: bytes = b"x", **fields: Any) -> None:
    take(sites, site, client, Request.CALL, JOB | fields, body, number)


def respond(sites: Sites, site: Site, client: bytes, to: Came, body: bytes = b"done", **fields: Any) -> None:
    take(sites, site, client, Request.RESPOND, {"call": to[2]["call"], **fields}, body, 99)


def join(sites: Sites, site: Site, client: bytes, group: str = "", credit: int = 10, delimiter: bool = False) -> None:
    site.ask(SubscribeRequest(1, "job", "commands", group, credit), client, delimiter=delimiter)
    settle(sites)


def came(site: Site, client: bytes = b"caller") -> list[Came]:
    """What a client was sent."""
    found = [(*decode_header(frames[0]), frames[1:]) for frames in site.sent.pop(client, [])]
    return [one for one in found if one[2]]


def codes(found: list[Came]) -> list[tuple[Any, bool]]:
    return [(fields.get("code"), fields.get("outcome_unknown", False)) for _, _, fields, _ in found]


def test_calls_of_one_pass_to_one_node_travel_in_one_frame_and_so_do_their_answers(trio: Sites) -> None:
    one, two, _ = trio
    join(trio, two, b"r")
    trio.travelled.clear()
    for number in range(1, 6):
        header = encode_header(Request.CALL, number, JOB)
        assert one.realtime.calls.take([b"caller", header, b"x"], "me", 0)
    settle(trio)
    calls = came(two, b"r")
    for each in calls:
        assert two.realtime.calls.take([b"r", encode_header(Request.RESPOND, 1, {"call": each[2]["call"]}), b"y"], "", 0)
    settle(trio)
    assert [kind for _, kind, _ in trio.travelled] == [PeerKind.CALL, PeerKind.ANSWER]
    assert [frames[0] for frames in one.sent[b"caller"]] == [encode_header(Reply.ANSWER, number, {}) for number in range(1, 6)]


def test_call_whose_node_cannot_be_reached_goes_to_another_member_of_the_group(trio: Sites) -> None:
    one, two, three = trio
    for site in (two, three):
        join(trio, site, b"r", "g")
    trio.broken.add(three.uid)
    for number in range(1, 5):
        call(trio, one, number)
    assert len(came(two, b"r")) == 4
    assert came(one) == []
    trio.broken.add(two.uid)
    call(trio, one, 5)
    assert codes(came(one)) == [("NO_RESPONDER", False)]


def test_call_for_everybody_whose_node_cannot_be_reached_is_refused_as_asked_of_nobody(trio: Sites) -> None:
    one, two, _ = trio
    join(trio, two, b"r")
    trio.broken.add(two.uid)
    call(trio, one)
    assert codes(came(one)) == [("NO_RESPONDER", False)]


def test_call_given_to_a_responder_that_is_gone_goes_to_another_member(trio: Sites) -> None:
    one, two, _ = trio
    for client in (b"r", b"s"):
        join(trio, two, client, "g")
    two.lose(b"r")
    for number in (1, 2):
        call(trio, one, number)
    assert len(came(two, b"s")) == 2
    assert came(one) == []
    two.lose(b"s")
    call(trio, one, 3)
    assert codes(came(one)) == [("NO_RESPONDER", True), ("NO_RESPONDER", True), ("NO_RESPONDER", False)]


def test_call_to_a_responder_that_reads_too_little_is_busy(trio: Sites) -> None:
    one, two, _ = trio
    join(trio, two, b"r")
    two.fill(b"r")
    call(trio, one)
    assert codes(came(one)) == [("BUSY", False)]


def test_answer_to_a_caller_that_is_gone_ends_its_calls_and_tells_their_responders(trio: Sites) -> None:
    one, two, _ = trio
    join(trio, two, b"r")
    for number in (1, 2):
        call(trio, one, number)
    first, second = came(two, b"r")
    one.lose(b"caller")
    respond(trio, two, b"r", first, last=False)
    assert [fields["call"] for command, _, fields, _ in came(two, b"r") if command == Reply.CANCELLED] == [
        first[2]["call"],
        second[2]["call"],
    ]
    assert one.realtime.calls.fields()["under_way"] == 0


def test_answer_to_a_caller_that_reads_too_little_ends_its_calls(trio: Sites) -> None:
    one, two, _ = trio
    join(trio, two, b"r")
    call(trio, one)
    (given,) = came(two, b"r")
    one.fill(b"caller")
    respond(trio, two, b"r", given, last=False)
    assert [command for command, *_ in came(two, b"r")] == [Reply.CANCELLED]


def test_connections_that_wait_long_are_looked_at_and_those_that_are_gone_are_noticed(trio: Sites) -> None:
    one, two, _ = trio
    join(trio, two, b"r")
    join(trio, two, b"q", delimiter=True)
    call(trio, one)
    now_ns = PROBE_NS
    for site in trio:
        site.realtime.calls.tick(now_ns)
    one.sent.clear()
    two.sent.clear()
    two.lose(b"r")
    two.lose(b"q")
    for site in trio:
        site.realtime.calls.tick(2 * now_ns)
    settle(trio)
    assert one.sent[b"caller"] == [[encode_header(Reply.CANCELLED, 0, {})]]
    assert came(one) == [], "the one with a delimiter is not looked at"
    two.ask(UnsubscribeRequest(1), b"q")
    one.lose(b"caller")
    for site in trio:
        site.realtime.calls.tick(3 * now_ns)
    assert one.realtime.calls.fields()["under_way"] == 0


def test_answers_wait_for_a_link_that_is_full_up_to_a_bound(trio: Sites, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two, _ = trio
    monkeypatch.setattr(call_post, "KEPT_COUNT_MAX", 2)
    join(trio, two, b"r")
    for number in range(1, 5):
        call(trio, one, number)
    trio.broken.add(one.uid)
    for given in came(two, b"r"):
        respond(trio, two, b"r", given)
    trio.broken.clear()
    settle(trio)
    assert b"caller" not in one.sent, "it is tried again with the next tick"
    two.realtime.calls.tick(0)
    settle(trio)
    assert [number for _, number, _ in (decode_header(frames[0]) for frames in one.sent[b"caller"])] == [1, 2]
    assert two.counters["answers_lost"] == 2
    one.sent.clear()
    one.realtime.calls.tick(11_000 * MS)
    assert codes(came(one)) == [("DEADLINE_EXCEEDED", True)] * 2


def test_node_that_is_gone_or_begins_another_run_takes_its_calls_with_it(trio: Sites) -> None:
    one, two, three = trio
    join(trio, two, b"r")
    call(trio, one)
    call(trio, three, client=b"other")
    first, second = came(two, b"r")
    one.realtime.node_gone(two.uid)
    two.realtime.calls.hear_run(three.uid, b"another run")
    two.realtime.calls.hear_run(three.uid, b"another run")
    settle(trio)
    assert codes(came(one)) == [("NO_RESPONDER", True)]
    assert [fields["call"] for _, _, fields, _ in came(two, b"r")] == [second[2]["call"]]
    respond(trio, two, b"r", first)
    assert one.counters["answers_late"] == 1


def test_repeat_of_a_call_that_is_under_way_is_no_other_call(trio: Sites) -> None:
    one, two, _ = trio
    join(trio, two, b"r")
    call(trio, one)
    call(trio, one)
    assert len(came(two, b"r")) == 1
    assert one.counters["calls_repeated"] == 1


def test_calls_to_the_own_node_take_no_way_to_others(trio: Sites) -> None:
    one, *_ = trio
    join(trio, one, b"r", credit=1)
    trio.travelled.clear()
    for number in (1, 2):
        call(trio, one, number)
    (given,) = came(one, b"r")
    respond(trio, one, b"r", given, body=b"large" * 2000)
    (again,) = came(one, b"r")
    respond(trio, one, b"r", again, error="no")
    assert [frames[1] for frames in one.sent[b"caller"]] == [b"large" * 2000, b"done"]
    assert trio.travelled == []


@pytest.mark.parametrize("kind", [PeerKind.CALL, PeerKind.ANSWER, PeerKind.CANCEL])
@pytest.mark.parametrize("fields", [{}, {"table": 5}, {"table": b"short"}])
def test_frames_between_nodes_with_a_fault_are_dropped_and_counted(trio: Sites, kind: PeerKind, fields: dict[str, Any]) -> None:
    one, two, _ = trio
    one.realtime.on_peer((kind, two.uid, fields, []), 0)
    assert one.counters["peer_frames_dropped_malformed_frame"] == 1


def test_what_has_other_frames_than_a_call_is_left_to_be_refused(trio: Sites) -> None:
    calls = next(iter(trio)).realtime.calls
    header = encode_header(Request.CALL, 1, JOB)
    assert is_call(header)
    assert not is_call(header[:11])
    assert not is_call(encode_header(Request.PING, 1, {}))
    assert not calls.take([b"c", b"", header, b"", b""], "", 0)
    assert not calls.take([b"c", b"no delimiter", header, b""], "", 0)
    assert calls.take([b"c", header[:4] + header[4:12] + b"\xc1", b""], "", 0)
    with pytest.raises(RequestError):
        decode_header(header[:4] + header[4:12] + b"\xc1")
