"""Sends without a confirm at the desk: they are stored like others, nobody is told, and nothing of them stays behind."""

from __future__ import annotations

import pytest

from tests.unit.server.harness import Site, trio
from tests.unit.server.test_desk import SESSION, Office
from zmqbroker.commands import Publish
from zmqbroker.errors import StorageFull
from zmqbroker.wire import codec
from zmqbroker.wire.frames import Reply
from zmqbroker.wire.peer import PeerKind
from zmqbroker.wire.requests import AnyRequest, Send, SendBatch, encode_request

BATCH = codec.encode_batch(b"q", [b"one", b"two"])
SILENT: list[AnyRequest] = [Send("q", b"one", confirm="none"), SendBatch(BATCH, confirm="none")]


@pytest.fixture
def leader() -> Office:
    """The desk of a node that leads; what its group answers goes out through it."""
    return wired(Office(Site().lead()))


def wired(office: Office) -> Office:
    """The office, with its own desk as what its group tells."""
    office.site.host.reply = office.desk.answer  # type: ignore[method-assign]
    office.site.host.refuse = office.desk.refuse  # type: ignore[method-assign]
    office.told.clear()
    return office


def refused(office: Office) -> dict[str, int]:
    """What was refused, by counter."""
    return {name: count for name, count in office.desk._node.counters.items() if "refused" in name}


@pytest.mark.parametrize("request_", SILENT, ids=["SEND", "SEND_BATCH"])
def test_send_without_a_confirm_is_stored_and_never_answered(leader: Office, request_: AnyRequest) -> None:
    leader.desk.handle([b"client", *map(bytes, encode_request(7, request_))], 1)
    assert leader.site.group._waiting_count == 0, "it is no request under way"
    leader.site.run()
    assert isinstance(leader.commands()[0], Publish)
    assert (leader.told, leader.site.group._waiting, refused(leader)) == ([], {}, {})


def test_send_with_a_confirm_beside_it_is_answered(leader: Office) -> None:
    leader.ask(SILENT[0])
    assert leader.answer(Send("q", b"two", id="i"))[1]["sequence"] == 2


@pytest.mark.parametrize("forward", [False, True])
def test_send_without_a_confirm_from_another_node_is_stored_and_not_answered(leader: Office, forward: bool) -> None:
    frames = [*map(bytes, encode_request(9, Send("q", b"one", forward=forward, confirm="none")))]
    leader.desk.handle_forwarded((PeerKind.FORWARD, b"u" * 16, {"route": b"\0c", "session": SESSION}, frames), 1)
    leader.site.run()
    assert isinstance(leader.commands()[0], Publish)
    assert (leader.told, leader.forwarded) == ([], [])


def test_follower_passes_it_on_and_keeps_nothing() -> None:
    follower = wired(Office(trio()[2]))
    follower.ask(Send("q", b"one", forward=True, confirm="none"))
    assert [kind for kind, _, _ in follower.forwarded] == [PeerKind.FORWARD]
    assert (follower.told, follower.site.group._parked) == ([], [])


def test_follower_that_may_not_pass_it_on_counts_it_and_says_nothing() -> None:
    follower = wired(Office(trio()[2]))
    follower.ask(SILENT[0])
    assert (follower.told, follower.forwarded) == ([], [])
    assert refused(follower) == {"refused_not_leader": 1, "sends_refused_unanswered": 1}


def test_node_that_waits_for_a_leader_keeps_no_send_without_a_confirm() -> None:
    office = wired(Office(Site(), peer=None))
    office.site.group._parked_ticks = 0  # a request with a confirm would wait for the leader now
    office.ask(Send("q", b"one", forward=True, confirm="none"))
    assert (office.told, office.site.group._parked) == ([], [])
    assert refused(office)["sends_refused_unanswered"] == 1


def test_node_without_a_cluster_counts_it(leader: Office) -> None:
    leader.desk._node.groups.clear()
    leader.ask(SILENT[0])
    assert (leader.told, refused(leader)["sends_refused_unanswered"]) == ([], 1)


def test_mismatch_that_nobody_hears_of_is_counted(leader: Office) -> None:
    leader.ask(Send("q", b"one", expected_sequence=5, confirm="none"))
    assert leader.told == []
    assert refused(leader) == {"refused_sequence_mismatch": 1, "sends_refused_unanswered": 1}


def test_send_that_the_log_has_no_room_for_is_counted(leader: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leader.desk._node.disks, "refusal", lambda group: StorageFull("full"))
    leader.ask(SILENT[1])
    assert leader.told == []
    assert refused(leader) == {"refused_storage_full": 1, "sends_refused_unanswered": 1}


def test_send_beyond_the_requests_that_a_node_bears_is_counted(leader: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leader.site.group, "_requests_max", -1)
    leader.ask(SILENT[0])
    assert (leader.told, leader.site.group._waiting_count) == ([], 0)
    assert refused(leader) == {"refused_busy": 1, "sends_refused_unanswered": 1}


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (Send("a b", b"one", confirm="none"), "INVALID_CHANNEL"),
        (Send("q", b"one", producer=5, sequence=1, confirm="none"), "INVALID_REQUEST"),
        (Send("q", b"one", explain=True, confirm="none"), "INVALID_REQUEST"),
        (SendBatch(codec.encode_batch(b"q", [b"one"], 5, 1), confirm="none"), "INVALID_REQUEST"),
        (SendBatch(b"no batch", confirm="none"), "MALFORMED_FRAME"),
        (Send("q", b"one", confirm="leader"), "INVALID_REQUEST"),
    ],
)
def test_request_that_is_wrong_in_itself_is_answered_all_the_same(leader: Office, request_: AnyRequest, code: str) -> None:
    answer, fields, _ = leader.answer(request_)
    assert (answer, fields["code"]) == (Reply.ERROR, code)
    assert "sends_refused_unanswered" not in refused(leader)


def test_leader_that_steps_down_forgets_the_sends_that_nobody_waits_for(leader: Office) -> None:
    leader.desk.handle([b"client", *map(bytes, encode_request(7, SILENT[0]))], 1)
    group = leader.site.group
    group.propose()
    group._stop_leading()
    for _ in range(10):
        group.tick()
    assert (leader.told, group._parked, group._waiting, group._waiting_count) == ([], [], {}, 0)
