"""Routes: which endpoint is the target after what was heard."""

from __future__ import annotations

from random import Random

from zmqbroker.client.routing import ENDPOINTS_MAX, IDLE_NS, PROBE_NS, SILENCE_NS, WAITING_NS, Node, Phase, Routes

A, B, C = (f"tcp://10.0.0.{number}:5590" for number in (1, 2, 3))
NEW = "tcp://10.0.0.9:5590"
NOW = 10**15
SESSION_NS = 15_000_000_000


def routes_of(*seeds: str) -> Routes:
    """Routes whose seeds are all connected and welcome."""
    routes = Routes(seeds, Random(1), NOW)
    for endpoint in seeds:
        node = known(routes, endpoint)
        routes.connected(node, NOW)
        routes.welcomed(node, SESSION_NS)
        routes.heard(node, NOW, False)
        node.call_due = False
    return routes


def known(routes: Routes, endpoint: str) -> Node:
    """A node that must be known."""
    node = routes.node(endpoint)
    assert node is not None
    return node


def test_routes_begin_at_the_first_seed_and_want_only_that() -> None:
    routes = Routes((A, B), Random(1), NOW)
    assert routes.target == A
    assert routes.wanted() == [A]
    assert not routes.open(NOW)
    assert routes.node("tcp://unknown:1") is None


def test_routes_hint_is_followed_at_once() -> None:
    routes = routes_of(A, B)
    routes.not_leader(A, B, NOW)
    assert routes.target == B
    assert routes.open(NOW)


def test_routes_hint_to_an_unknown_endpoint_is_learned() -> None:
    routes = routes_of(A)
    routes.not_leader(A, NEW, NOW)
    assert routes.target == NEW
    assert routes.wanted() == [A, NEW]
    assert not known(routes, NEW).seed


def test_routes_useless_hints_pause_and_go_on_at_the_next() -> None:
    for hint in (None, A, "nonsense", 7):
        routes = routes_of(A, B)
        routes.not_leader(A, hint, NOW)
        assert routes.target == B
        assert not routes.open(NOW + 49_000_000)
        assert routes.open(NOW + 100_000_000)


def test_routes_hint_to_a_node_that_is_down_pauses() -> None:
    routes = routes_of(A, B, C)
    routes.lost(known(routes, B), NOW)
    routes.not_leader(A, B, NOW)
    assert routes.target == C
    assert not routes.open(NOW)


def test_routes_hints_in_circles_pause_after_three_until_one_serves() -> None:
    routes = routes_of(A, B)
    for at in range(3):
        routes.not_leader(routes.target, B if routes.target == A else A, NOW)
        assert routes.open(NOW), at
    routes.served(B)
    routes.not_leader(B, A, NOW)
    assert routes.open(NOW)
    for _ in range(3):
        routes.not_leader(routes.target, B if routes.target == A else A, NOW)
    assert not routes.open(NOW)


def test_routes_refusals_by_others_than_the_target_change_nothing() -> None:
    routes = routes_of(A, B, C)
    routes.not_leader(B, C, NOW)
    routes.pause(C, NOW)
    assert routes.target == A
    assert routes.open(NOW)


def test_routes_pause_with_one_endpoint_stays_there() -> None:
    routes = routes_of(A)
    routes.pause(A, NOW)
    assert routes.target == A
    assert not routes.open(NOW)


def test_routes_lost_target_moves_on_and_calls_everyone() -> None:
    routes = routes_of(A, B, C)
    routes.lost(known(routes, A), NOW)
    assert routes.target == B
    assert [node.call_due for node in routes.nodes()] == [True, True, True]
    assert known(routes, A).phase is Phase.CLOSED


def test_routes_lost_other_is_only_noted() -> None:
    routes = routes_of(A, B)
    routes.lost(known(routes, B), NOW)
    assert routes.target == A
    assert known(routes, B).down


def test_routes_all_down_takes_turns() -> None:
    routes = routes_of(A, B, C)
    targets = []
    for _ in range(4):
        routes.lost(known(routes, routes.target), NOW)
        targets.append(routes.target)
    assert targets == [B, C, A, B]


def test_routes_pong_with_a_higher_term_wins() -> None:
    routes = routes_of(A, B, C)
    routes.pong(A, B, 5, NOW)
    assert routes.target == B
    routes.pong(C, C, 4, NOW)
    routes.pong(C, C, 5, NOW)
    assert routes.target == B
    routes.pong(C, C, 6, NOW)
    assert routes.target == C


def test_routes_pong_of_the_same_term_counts_when_nothing_is_settled() -> None:
    routes = routes_of(A, B, C)
    routes.pong(A, C, 5, NOW)
    routes.lost(known(routes, C), NOW)
    routes.connected(known(routes, C), NOW)
    assert routes.target != C
    routes.pong(A, C, 5, NOW)
    assert routes.target == C


def test_routes_pong_ends_a_pause() -> None:
    routes = routes_of(A, B)
    routes.pause(A, NOW)
    routes.pong(A, A, 3, NOW)
    assert routes.open(NOW)


def test_routes_pong_naming_a_node_that_is_down_is_not_believed() -> None:
    routes = routes_of(A, B)
    routes.lost(known(routes, B), NOW)
    routes.pong(A, B, 9, NOW)
    assert routes.target == A
    routes.pong(A, A, 3, NOW)
    assert routes.target == A


def test_routes_pong_without_a_leader_moves_only_from_a_silent_target() -> None:
    routes = routes_of(A, B)
    routes.pong(B, None, 0, NOW)
    assert routes.target == A
    routes.asked(A, NOW)
    routes.review(NOW + SILENCE_NS, False)
    routes.pong(A, None, 0, NOW)
    assert routes.target == A
    routes.pong(B, None, 0, NOW)
    assert routes.target == B
    assert not known(routes, A).silent


def test_routes_pong_with_fields_of_wrong_types_is_as_none() -> None:
    routes = routes_of(A, B)
    for leader, term in ((7, 9), (B, "x"), ("nonsense", 9), ([], None)):
        routes.pong(B, leader, term, NOW)
    assert routes.target == A


def test_routes_silence_calls_everyone_and_soon_again() -> None:
    routes = routes_of(A, B)
    routes.asked(A, NOW)
    routes.asked(A, NOW + 5)
    routes.asked(B, NOW)
    routes.review(NOW + SILENCE_NS - 1, False)
    assert not known(routes, B).call_due
    routes.review(NOW + SILENCE_NS, False)
    assert [node.call_due for node in routes.nodes()] == [True, True]
    assert routes.review_ns(False) == NOW + SILENCE_NS + PROBE_NS


def test_routes_silence_calls_nobody_again_whose_answer_is_not_overdue() -> None:
    routes = routes_of(A, B)
    routes.asked(A, NOW)
    first = NOW + SILENCE_NS
    routes.review(first, False)
    for node in routes.nodes():
        node.call_due, node.called_ns = False, first
    known(routes, A).ping_id = 7  # no PONG yet; B has answered
    routes.review(first + PROBE_NS, False)
    assert [node.call_due for node in routes.nodes()] == [False, True]
    routes.review(first + SILENCE_NS, False)
    assert [node.call_due for node in routes.nodes()] == [True, True]


def test_routes_heard_ends_the_silence_or_starts_it_anew() -> None:
    routes = routes_of(A, B)
    routes.asked(A, NOW)
    routes.heard(known(routes, A), NOW + 10, True)
    assert routes.review_ns(False) == NOW + 10 + SILENCE_NS
    routes.heard(known(routes, A), NOW + 20, False)
    assert routes.review_ns(False) == NOW + 20 + IDLE_NS
    assert routes.review_ns(True) == NOW + 20 + WAITING_NS


def test_routes_short_session_is_kept_by_more_frequent_calls() -> None:
    routes = routes_of(A)
    routes.welcomed(known(routes, A), 900_000_000)
    assert routes.review_ns(False) == NOW + 300_000_000
    assert routes.review_ns(True) == NOW + 300_000_000


def test_routes_idle_calls_the_target_alone() -> None:
    routes = routes_of(A, B)
    routes.review(NOW + IDLE_NS, False)
    assert [node.call_due for node in routes.nodes()] == [True, False]


def test_routes_unwelcome_pauses_and_goes_on() -> None:
    routes = Routes((A, B), Random(1), NOW)
    routes.connected(known(routes, A), NOW)
    routes.unwelcome(known(routes, A), NOW)
    assert routes.target == B
    assert routes.hold_ns > NOW


def test_routes_connection_of_another_than_the_target_is_not_awaited() -> None:
    routes = routes_of(A)
    assert routes.learn(NEW)
    routes.connected(known(routes, NEW), NOW)
    assert known(routes, NEW).asked_ns is None
    assert known(routes, NEW).call_due


def test_routes_learn_is_bounded_and_keeps_seeds_and_connections() -> None:
    routes = routes_of(A)
    learned = [f"tcp://10.1.0.{number}:1" for number in range(ENDPOINTS_MAX - 1)]
    assert all(routes.learn(endpoint) for endpoint in learned)
    assert routes.learn(NEW)  # instead of the first that was learned
    assert routes.node(learned[0]) is None
    assert routes.node(A) is not None
    assert routes.learn(A)
    for node in routes.nodes():
        node.phase = Phase.READY
    assert not routes.learn("tcp://10.2.0.1:1")
    routes.not_leader(A, "tcp://10.2.0.1:1", NOW)
    assert routes.target != "tcp://10.2.0.1:1"


def test_routes_learn_never_forgets_the_target() -> None:
    routes = routes_of(A)
    routes.not_leader(A, NEW, NOW)
    for number in range(ENDPOINTS_MAX * 2):
        routes.learn(f"tcp://10.1.0.{number}:1")
    assert routes.node(NEW) is not None
    assert len(list(routes.nodes())) == ENDPOINTS_MAX


def test_routes_later_is_between_50_and_100_ms() -> None:
    routes = routes_of(A)
    delays = {routes.later(NOW) - NOW for _ in range(200)}
    assert min(delays) >= 50_000_000
    assert max(delays) <= 100_000_000
    assert len(delays) > 100
