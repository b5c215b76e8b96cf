"""What is known of a request after its attempts."""

from __future__ import annotations

from zmqbroker.client.exchange import Exchange, not_sent, with_outcome
from zmqbroker.errors import Busy, DeadlineExceeded, NoMajority, NotLeader, UnsupportedVersion


def exchange() -> Exchange:
    """A request that was not sent yet."""
    return Exchange(7, [b"frame"], "ACK request 7")


def test_exchange_never_sent_certainly_did_not_happen() -> None:
    error = exchange().expired()
    assert isinstance(error, DeadlineExceeded)
    assert not error.outcome_unknown
    assert "ACK request 7" in error.message


def test_exchange_never_sent_because_unwelcome_says_so() -> None:
    refusal = UnsupportedVersion("no", outcome_unknown=True, minimum=2, maximum=2)
    error = exchange().expired(refusal)
    assert isinstance(error, UnsupportedVersion)
    assert not error.outcome_unknown
    assert isinstance(not_sent("x", None), DeadlineExceeded)


def test_exchange_open_attempt_is_unknown() -> None:
    one = exchange()
    one.sent("a", 1)
    assert one.may_have_happened
    assert isinstance(one.expired(), DeadlineExceeded)
    assert one.expired().outcome_unknown


def test_exchange_refused_attempt_did_not_happen() -> None:
    one = exchange()
    one.sent("a", 1)
    assert one.refused("a", Busy("full", retry_ms=3))
    assert not one.may_have_happened
    error = one.expired()
    assert isinstance(error, Busy)
    assert error.retry_ms == 3
    assert error is not one.last_error


def test_exchange_sent_again_while_open_stays_unknown() -> None:
    one = exchange()
    one.sent("a", 1)
    one.sent("b", 2)
    assert not one.refused("a", Busy("full"))
    assert one.refused("b", Busy("full"))
    assert one.may_have_happened
    assert isinstance(one.expired(), DeadlineExceeded)


def test_exchange_lost_connection_stays_unknown() -> None:
    one = exchange()
    one.lost()
    assert not one.may_have_happened
    one.sent("a", 1)
    one.lost()
    assert not one.open
    assert one.may_have_happened


def test_exchange_refusal_with_unknown_outcome_stays_unknown() -> None:
    one = exchange()
    one.sent("a", 1)
    one.refused("a", NotLeader("stepped down", outcome_unknown=True))
    assert one.may_have_happened
    assert isinstance(one.expired(), DeadlineExceeded)


def test_exchange_refused_twice_by_the_same_node_counts_once() -> None:
    one = exchange()
    one.sent("a", 1)
    assert one.refused("a", Busy("full"))
    assert not one.refused("a", Busy("full"))


def test_exchange_no_majority_last_is_raised_even_when_unknown() -> None:
    one = exchange()
    one.sent("a", 1)
    one.sent("a", 2)
    one.refused("a", NoMajority("no"))
    error = one.expired()
    assert isinstance(error, NoMajority)
    assert error.outcome_unknown


def test_with_outcome_keeps_class_message_and_fields() -> None:
    error = with_outcome(NotLeader("no", leader="tcp://a:1"), True)
    assert isinstance(error, NotLeader)
    assert (error.message, error.leader_hint, error.outcome_unknown) == ("no", "tcp://a:1", True)
