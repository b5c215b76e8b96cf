"""Routes: which endpoint is the target after what was heard."""

from __future__ import annotations

from random import Random

from zmqbroker.client.routing import (
    ENDPOINTS_MAX,
    IDLE_NS,
    SILENCE_NS,
    SPREAD_NS,
    STANDING_MAX,
    SUSPICION_NS,
    WAITING_NS,
    Node,
    Phase,
    Routes,
)

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
        routes.welcomed(node, SESSION_NS, NOW)
        routes.heard(node, NOW, False)
        called(node)
    return routes


def spread_out(*seeds: str) -> Routes:
    """Routes that have come to want a connection to every node."""
    routes = routes_of(*seeds)
    routes.review(NOW + SPREAD_NS, False)
    return routes


def called(node: Node, at_ns: int = NOW) -> None:
    """What was due was sent."""
    node.call_due, node.info_due, node.called_ns = False, False, at_ns


def due(routes: Routes) -> list[str]:
    """Endpoints that are to be called."""
    return [node.endpoint for node in routes.nodes() if node.call_due]


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
    routes.review(NOW + SUSPICION_NS, False)
    routes.pong(B, None, 0, NOW)
    assert routes.target == A
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


def test_routes_suspicion_asks_everyone_and_moves_nowhere() -> None:
    routes = routes_of(A, B)
    routes.asked(A, NOW)
    routes.asked(A, NOW + 5)
    routes.asked(B, NOW)
    routes.review(NOW + SUSPICION_NS - 1, False)
    assert due(routes) == []
    routes.review(NOW + SUSPICION_NS, False)
    assert due(routes) == [A, B]
    assert routes.target == A
    assert routes.open(NOW + SUSPICION_NS)
    assert NOW + SUSPICION_NS < routes.review_ns(False) < NOW + SUSPICION_NS + 20_000_000, "and soon again"


def test_routes_suspicion_ends_with_a_frame_of_the_target() -> None:
    routes = routes_of(A, B)
    routes.pong(A, A, 5, NOW)
    routes.asked(A, NOW)
    routes.review(NOW + SUSPICION_NS, False)
    routes.heard(known(routes, B), NOW + SUSPICION_NS + 1, True)
    assert routes.review_ns(False) < NOW + SUSPICION_NS + 20_000_000
    routes.heard(known(routes, A), NOW + SUSPICION_NS + 2, True)
    assert routes.review_ns(False) == NOW + SUSPICION_NS + 2 + SUSPICION_NS


def test_routes_suspicion_believes_only_a_higher_term() -> None:
    routes = routes_of(A, B, C)
    routes.pong(A, A, 5, NOW)
    routes.asked(A, NOW)
    routes.review(NOW + SUSPICION_NS, False)
    for leader, term in ((A, 5), (None, 0), (C, 4)):
        routes.pong(B, leader, term, NOW + SUSPICION_NS)
        assert routes.target == A
    routes.pong(B, C, 6, NOW + SUSPICION_NS)
    assert routes.target == C
    assert routes.review_ns(False) >= NOW + SPREAD_NS, "nothing is searched any more"


def test_routes_search_calls_nobody_again_whose_answer_is_not_overdue() -> None:
    routes = routes_of(A, B)
    routes.asked(A, NOW)
    first = NOW + SUSPICION_NS
    routes.review(first, False)
    for node in routes.nodes():
        called(node, first)
    known(routes, A).ping_id = 7  # no PONG yet; B has answered
    routes.review(routes.review_ns(False), False)
    assert due(routes) == [B]
    known(routes, B).call_due = False
    routes.review(first + SILENCE_NS, False)
    assert due(routes) == [A, B]


def test_routes_search_greets_nobody_again_whose_welcome_is_not_overdue() -> None:
    routes = routes_of(A)
    routes.learn(B)
    routes.connected(known(routes, B), NOW)
    called(known(routes, B))
    routes.pause(A, NOW)
    assert due(routes) == [A]
    called(known(routes, A))
    routes.review(NOW + SILENCE_NS, False)
    assert due(routes) == [A, B]


def test_routes_lost_target_holds_requests_back_until_a_leader_is_named() -> None:
    routes = routes_of(A, B, C)
    routes.lost(known(routes, A), NOW)
    assert not routes.open(NOW + 49_000_000)
    assert routes.open(NOW + 100_000_000), "or for a while"
    routes.pong(C, B, 2, NOW + 1)
    assert routes.target == B
    assert routes.open(NOW + 1)


def test_routes_node_that_denied_to_lead_is_believed_in_a_later_term_only() -> None:
    routes = routes_of(A, B)
    routes.pong(B, A, 5, NOW)
    routes.pause(A, NOW)
    routes.pong(B, A, 5, NOW)
    assert routes.target == B
    assert not routes.open(NOW)
    routes.pong(B, A, 6, NOW)
    assert routes.target == A
    routes.not_leader(A, B, NOW)
    routes.not_leader(B, None, NOW)
    routes.pong(B, A, 6, NOW)
    assert not routes.open(NOW), "a hint to another one denies it too"


def test_routes_refusal_that_is_older_than_what_others_told_is_forgotten_soon() -> None:
    routes = routes_of(A, B, C)
    routes.pong(A, A, 5, NOW)
    routes.not_leader(A, B, NOW)
    routes.pong(C, B, 6, NOW)  # it won an election ...
    routes.not_leader(B, A, NOW)  # ... after this refusal, which came late: its hint is old, and A is gone
    assert routes.target == A
    routes.asked(A, NOW)
    routes.pong(C, B, 6, NOW + SUSPICION_NS - 1)
    assert routes.target == A
    routes.review(NOW + SUSPICION_NS, False)
    routes.pong(C, A, 5, NOW + SUSPICION_NS)
    assert routes.target == A
    routes.pong(C, B, 6, NOW + SUSPICION_NS)
    assert routes.target == B
    assert routes.open(NOW + SUSPICION_NS)


def test_routes_hint_during_a_search_does_not_end_it() -> None:
    routes = routes_of(A, B, C)
    routes.pause(A, NOW)
    routes.not_leader(B, C, NOW)
    assert routes.target == C
    assert routes.review_ns(False) <= NOW + 20_000_000
    routes.heard(known(routes, C), NOW, False)
    assert routes.review_ns(False) > NOW + 20_000_000


def test_routes_leader_that_is_down_should_be_connected_to_soon() -> None:
    routes = routes_of(A, B)
    routes.lost(known(routes, B), NOW)
    assert routes.take_urgent() == []
    routes.pong(A, B, 9, NOW)
    assert (routes.take_urgent(), routes.take_urgent()) == ([B], [])
    routes.connected(known(routes, B), NOW)
    routes.pong(A, B, 9, NOW)
    assert routes.target == B


def test_routes_served_ends_the_search() -> None:
    routes = routes_of(A, B)
    routes.pause(A, NOW)
    routes.served(A)
    assert routes.review_ns(False) < NOW + SUSPICION_NS, "not the target"
    routes.served(B)
    assert routes.review_ns(False) >= NOW + SPREAD_NS


def test_routes_heard_ends_the_silence_or_starts_it_anew() -> None:
    routes = spread_out(A, B)
    routes.asked(A, NOW)
    routes.heard(known(routes, A), NOW + 10, True)
    assert routes.review_ns(False) == NOW + 10 + SUSPICION_NS
    routes.heard(known(routes, A), NOW + 20, False)
    assert routes.review_ns(False) == known(routes, B).called_ns + IDLE_NS
    assert routes.review_ns(True) == NOW + 20 + WAITING_NS


def test_routes_short_session_is_kept_by_more_frequent_calls() -> None:
    routes = spread_out(A)
    routes.welcomed(known(routes, A), 900_000_000, NOW)
    assert routes.review_ns(False) == NOW + 300_000_000
    assert routes.review_ns(True) == NOW + 300_000_000


def test_routes_idle_calls_every_connected_node_once_in_a_while() -> None:
    routes = spread_out(A, B)
    assert routes.learn(C)
    routes.review(NOW + IDLE_NS - 1, False)
    assert due(routes) == []
    routes.review(NOW + IDLE_NS, False)
    assert due(routes) == [A, B]
    called(known(routes, A), NOW + IDLE_NS)
    called(known(routes, B), NOW + IDLE_NS)
    routes.heard(known(routes, A), NOW + IDLE_NS + 5, False)
    routes.review(NOW + IDLE_NS + 6, False)
    assert due(routes) == []
    assert routes.review_ns(False) == NOW + 2 * IDLE_NS


def test_routes_busy_target_does_not_keep_the_others_from_being_called() -> None:
    routes = spread_out(A, B)
    routes.heard(known(routes, A), NOW + IDLE_NS - 1, True)
    routes.review(NOW + IDLE_NS, False)
    assert due(routes) == [B]


def test_routes_spread_connects_to_all() -> None:
    routes = Routes((A, B), Random(1), NOW)
    routes.connected(known(routes, A), NOW)
    routes.welcomed(known(routes, A), SESSION_NS, NOW)
    routes.heard(known(routes, A), NOW, False)
    routes.review(NOW + SPREAD_NS - 1, False)
    assert routes.learn(C)
    assert routes.wanted() == [A]
    routes.review(NOW + SPREAD_NS, False)
    assert routes.wanted() == [A, B, C]
    assert routes.learn(NEW)
    assert routes.wanted() == [A, B, C, NEW]


def test_routes_ask_every_new_target_for_the_members_once() -> None:
    routes = routes_of(A, B)
    routes.pong(A, A, 1, NOW)
    assert not known(routes, A).info_due, "it was asked when it was new"
    routes.not_leader(A, B, NOW)
    assert known(routes, B).info_due
    routes.pong(B, B, 2, NOW)
    assert known(routes, B).info_due
    known(routes, B).info_due = False
    for endpoint, asked in ((A, False), (B, True)):
        routes.welcomed(known(routes, endpoint), SESSION_NS, NOW)
        assert known(routes, endpoint).info_due is asked


def test_routes_spread_is_bounded() -> None:
    routes = spread_out(A)
    for number in range(ENDPOINTS_MAX):
        routes.learn(f"tcp://10.1.0.{number}:1")
    assert len(routes.wanted()) == STANDING_MAX


def test_routes_members_replace_what_was_learned_and_cannot_be_reached() -> None:
    routes = spread_out(A)
    for endpoint in (B, NEW):
        assert routes.learn(endpoint)
    routes.connected(known(routes, NEW), NOW)
    routes.members([C])
    assert [node.endpoint for node in routes.nodes()] == [A, NEW, C], "the user's, one that is connected, and the member"


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
