"""Which session a connection speaks for, and which sessions are given up."""

from __future__ import annotations

from zmqbroker.server.sessions import Connections, Liveness

TIMEOUT_NS = 100
ALICE, BOB = b"a" * 16, b"b" * 16


def test_connection_without_hello_gets_a_session_and_keeps_it() -> None:
    connections = Connections(4, TIMEOUT_NS)
    first = connections.heard(b"1", 0).session
    assert len(first) == 16
    assert connections.heard(b"1", 5).session == first
    assert connections.heard(b"2", 5).session != first


def test_connection_with_hello_speaks_for_the_named_session() -> None:
    connections = Connections(4, TIMEOUT_NS)
    connections.heard(b"1", 0)
    connection = connections.hello(b"1", ALICE, "shop", 1)
    assert (connection.session, connection.client_id) == (ALICE, "shop")
    assert connections.heard(b"1", 2).session == ALICE


def test_connection_whose_hello_names_no_session_keeps_the_one_it_has() -> None:
    connections = Connections(4, TIMEOUT_NS)
    made = connections.heard(b"1", 0).session
    assert connections.hello(b"1", b"", "shop", 1).session == made


def test_connections_over_the_bound_forget_the_longest_silent() -> None:
    connections = Connections(2, TIMEOUT_NS)
    connections.hello(b"1", ALICE, "", 0)
    connections.hello(b"2", BOB, "", 1)
    connections.heard(b"1", 2)
    connections.heard(b"3", 3)
    assert len(connections) == 2
    assert connections.heard(b"1", 4).session == ALICE
    assert connections.heard(b"2", 5).session != BOB


def test_sweep_forgets_connections_silent_for_longer_than_the_timeout() -> None:
    connections = Connections(4, TIMEOUT_NS)
    connections.hello(b"1", ALICE, "", 0)
    connections.hello(b"2", BOB, "", 1)
    connections.sweep(TIMEOUT_NS)
    assert len(connections) == 2
    connections.sweep(TIMEOUT_NS + 1)
    assert len(connections) == 1
    assert connections.heard(b"2", TIMEOUT_NS + 1).session == BOB


def test_sweep_keeps_connections_whose_session_waits() -> None:
    connections = Connections(4, TIMEOUT_NS)
    connections.hello(b"1", ALICE, "", 0)
    connections.sweep(10 * TIMEOUT_NS, iter([ALICE]))
    assert len(connections) == 1


def test_session_expires_after_the_timeout_and_not_before() -> None:
    liveness = Liveness(TIMEOUT_NS)
    liveness.heard(ALICE, 0)
    assert liveness.expired([ALICE], set(), TIMEOUT_NS) == []
    assert liveness.expired([ALICE], set(), TIMEOUT_NS + 1) == [ALICE]


def test_session_that_was_never_heard_has_the_timeout_from_the_first_look() -> None:
    liveness = Liveness(TIMEOUT_NS)
    assert liveness.expired([ALICE], set(), 1000) == []
    assert liveness.expired([ALICE], set(), 1000 + TIMEOUT_NS) == []
    assert liveness.expired([ALICE], set(), 1001 + TIMEOUT_NS) == [ALICE]


def test_session_that_waits_does_not_expire_and_has_the_timeout_after_the_wait() -> None:
    liveness = Liveness(TIMEOUT_NS)
    liveness.heard(ALICE, 0)
    assert liveness.expired([ALICE, BOB], {ALICE}, 500) == []
    assert liveness.expired([ALICE, BOB], set(), 500 + TIMEOUT_NS) == []
    assert liveness.expired([ALICE, BOB], set(), 501 + TIMEOUT_NS) == [ALICE, BOB]


def test_session_heard_again_lives_on() -> None:
    liveness = Liveness(TIMEOUT_NS)
    liveness.heard(ALICE, 0)
    liveness.heard(ALICE, 90)
    assert liveness.expired([ALICE], set(), 150) == []


def test_session_that_holds_nothing_is_forgotten() -> None:
    liveness = Liveness(TIMEOUT_NS)
    liveness.heard(ALICE, 0)
    assert liveness.expired([], set(), 50) == []
    assert liveness.expired([ALICE], set(), 200) == [], "its time before it held anything does not count"


def test_restart_gives_every_session_the_timeout_anew() -> None:
    liveness = Liveness(TIMEOUT_NS)
    liveness.heard(ALICE, 0)
    liveness.restart()
    assert liveness.expired([ALICE], set(), 500) == []
    assert liveness.expired([ALICE], set(), 501 + TIMEOUT_NS) == [ALICE]
