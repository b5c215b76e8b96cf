"""Requests that were sent more than once, and refusals that may be about what an earlier attempt has done."""

from __future__ import annotations

from tests.unit.client.fakes import busy
from tests.unit.client.simulation import Simulation
from zmqbroker.client.pipeline import PipelineSettings
from zmqbroker.commands import DeleteChannel, Nack, Purge, Receipt, Reject
from zmqbroker.errors import ChannelNotFound, InvalidRequest, StaleReceipt
from zmqbroker.wire.frames import Reply
from zmqbroker.wire.requests import ManageRequest, ReceiveRequest, SettleRequest

RECEIPTS = (Receipt(1, 1, 1),)


def holding() -> Simulation:
    """A session that holds the first message of a channel."""
    simulation = Simulation()
    pipeline = simulation.session.pipeline("q", PipelineSettings())
    simulation.send(pipeline, "message")
    simulation.run(20)
    simulation.submit(ReceiveRequest("q"), "receive")
    simulation.run(50)
    assert simulation.result("receive").fields["pieces"] == [[1, 1, 1, 1, 1]]
    return simulation


def lose_first_reply(simulation: Simulation, code: Reply) -> None:
    """The first reply of a kind gets lost with its connection."""

    def lose(endpoint: str, frames: list[bytes]) -> bool:
        lost = frames[0][3] == code
        if lost:
            simulation.lose_reply = lambda endpoint, frames: False
            simulation.cut(endpoint)
        return lost

    simulation.lose_reply = lose


def test_session_nack_done_by_an_attempt_whose_answer_was_lost_is_outcome_unknown() -> None:
    simulation = holding()
    lose_first_reply(simulation, Reply.DONE)
    simulation.submit(SettleRequest(Nack(b"", "q", RECEIPTS)), "nack")
    simulation.run(1_000)
    error = simulation.result("nack")
    assert isinstance(error, StaleReceipt)
    assert error.outcome_unknown
    assert error.fields["stale"] == [[1, 1, 1]]
    assert list(simulation.broker.channel("q").ready) == [1]


def test_session_nack_that_was_stale_at_once_was_not_done() -> None:
    simulation = holding()
    for token in ("first", "second"):
        simulation.submit(SettleRequest(Nack(b"", "q", RECEIPTS)), token)
        simulation.run(50)
    assert simulation.result("first").fields["count"] == 1
    error = simulation.result("second")
    assert isinstance(error, StaleReceipt)
    assert not error.outcome_unknown


def test_session_nack_refused_before_by_one_that_did_nothing_was_not_done() -> None:
    simulation = holding()
    simulation.submit(SettleRequest(Nack(b"", "q", RECEIPTS)), "first")
    simulation.run(50)
    simulation.nodes[simulation.endpoints[0]].refusals.append(busy())
    simulation.submit(SettleRequest(Nack(b"", "q", RECEIPTS)), "second")
    simulation.run(200)
    error = simulation.result("second")
    assert isinstance(error, StaleReceipt)
    assert not error.outcome_unknown


def test_session_delete_of_a_channel_by_an_attempt_whose_answer_was_lost_is_outcome_unknown() -> None:
    simulation = holding()
    lose_first_reply(simulation, Reply.CHANGED)
    simulation.submit(ManageRequest(DeleteChannel("q")), "delete")
    simulation.run(1_000)
    error = simulation.result("delete")
    assert isinstance(error, ChannelNotFound)
    assert error.outcome_unknown
    assert "q" not in simulation.broker.channels


def test_session_purge_of_no_channel_after_a_lost_answer_was_not_done() -> None:
    simulation = holding()
    lose_first_reply(simulation, Reply.ERROR)
    simulation.submit(ManageRequest(Purge("nobody")), "purge")
    simulation.run(1_000)
    error = simulation.result("purge")
    assert isinstance(error, ChannelNotFound)
    assert not error.outcome_unknown


def test_session_settle_with_another_error_after_a_lost_answer_stays_that() -> None:
    simulation = holding()
    lose_first_reply(simulation, Reply.ERROR)
    simulation.submit(SettleRequest(Reject(b"", "q", RECEIPTS)), "reject")
    simulation.run(1_000)
    error = simulation.result("reject")
    assert isinstance(error, InvalidRequest)
    assert not error.outcome_unknown
