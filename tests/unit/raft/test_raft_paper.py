"""One test per claim of the Raft paper (extended version) on replication and safety; §5.1 and §5.2 have a file of their own.

The section is cited before each group.
"""

from __future__ import annotations

import pytest

from tests.unit.raft.harness import Group, entries_of, make_leader, make_node, of_type
from zmqbroker.raft.messages import Message, MessageType, Role
from zmqbroker.raft.progress import ProgressState

APPEND = MessageType.APPEND_ENTRIES
APPEND_RESPONSE = MessageType.APPEND_ENTRIES_RESPONSE
VOTE = MessageType.REQUEST_VOTE
VOTE_RESPONSE = MessageType.REQUEST_VOTE_RESPONSE
HEARTBEAT = MessageType.HEARTBEAT

# --- figures 2 and 3: what every leader begins with and keeps to -----------------------------------------------------


def test_leader_begins_with_next_index_behind_its_log_and_nothing_matched() -> None:
    leader = make_leader(terms=[1, 1])
    assert [(one.next_index, one.match_index) for one in leader.core.progress().values()] == [(4, 3), (3, 0), (3, 0)]


def test_leader_never_changes_its_own_log() -> None:
    # Append-only (figure 3): nothing of another leader of its term is believed, and what is refused is sent, not cut.
    leader = make_leader(terms=[1, 1])
    before = leader.terms()
    leader.say(APPEND, 2, 2, index=0, log_term=0, entries=entries_of([2]))
    leader.say(APPEND_RESPONSE, 2, 2, index=2, reject=True, reject_hint=0)
    leader.core.propose(b"x")
    leader.settle()
    assert leader.terms() == [*before, 2]


# --- §5.3: log replication -----------------------------------------------------------------------------------------


def test_leader_appends_and_sends_a_proposal_at_once() -> None:
    leader = make_leader()
    leader.say(APPEND_RESPONSE, 2, 1, index=1)
    leader.say(APPEND_RESPONSE, 3, 1, index=1)
    index = leader.core.propose(b"x")
    sent = leader.ready().messages
    assert index == 2
    assert [(m.to, m.index, m.log_term, m.commit, len(m.entries)) for m in sent] == [(2, 1, 1, 1, 1), (3, 1, 1, 1, 1)]
    assert leader.log.last_index() == 1


@pytest.mark.parametrize(
    ("size", "answers", "committed"),
    [(1, 0, True), (3, 0, False), (3, 1, True), (3, 2, True), (5, 1, False), (5, 2, True), (4, 1, False), (4, 2, True)],
)
def test_leader_commits_when_a_majority_has_the_entry(size: int, answers: int, committed: bool) -> None:
    leader = make_leader(size=size)
    for voter in range(2, 2 + answers):
        leader.say(APPEND_RESPONSE, voter, 1, index=1)
    assert (leader.core.commit_index == 1) is committed
    assert ([entry.index for entry in leader.committed] == [1]) is committed


def test_leader_commits_the_entries_before_it_too() -> None:
    leader = make_leader(terms=[1, 1, 2])
    leader.say(APPEND_RESPONSE, 2, 3, index=4)
    assert leader.core.commit_index == 4
    assert [entry.index for entry in leader.committed] == [1, 2, 3, 4]


def test_follower_learns_the_commit_index_and_applies_in_order() -> None:
    node = make_node()
    node.say(APPEND, 2, 1, entries=entries_of([1, 1, 1]), commit=2)
    assert [entry.index for entry in node.committed] == [1, 2]
    node.say(APPEND, 2, 1, index=3, log_term=1, commit=3)
    assert [entry.index for entry in node.committed] == [1, 2, 3]


@pytest.mark.parametrize(
    ("index", "term", "reject", "hint", "hint_term"),
    [(0, 0, False, 0, 0), (2, 2, False, 0, 0), (1, 1, False, 0, 0), (2, 3, True, 2, 2), (3, 3, True, 2, 2), (2, 1, True, 1, 1)],
)
def test_follower_checks_that_the_previous_entry_matches(
    index: int, term: int, reject: bool, hint: int, hint_term: int
) -> None:
    node = make_node(terms=[1, 2])
    [answer] = node.say(APPEND, 2, 3, index=index, log_term=term)
    assert (answer.reject, answer.index, answer.reject_hint, answer.log_term) == (reject, index, hint, hint_term)


@pytest.mark.parametrize(
    ("index", "terms", "after"),
    [
        (2, [3], [1, 2, 3]),
        (1, [3, 4], [1, 3, 4]),
        (0, [1], [1, 2]),
        (0, [3], [3]),
        (1, [], [1, 2]),
    ],
)
def test_follower_cuts_its_log_only_where_it_conflicts(index: int, terms: list[int], after: list[int]) -> None:
    node = make_node(terms=[1, 2])
    previous = node.terms()[index - 1] if index else 0
    node.say(APPEND, 2, 4, index=index, log_term=previous, entries=entries_of(terms, first=index + 1))
    assert node.terms() == after


def test_follower_getting_a_stale_append_keeps_what_it_acknowledged() -> None:
    node = make_node()
    late = {"entries": entries_of([1])}
    node.say(APPEND, 2, 1, entries=entries_of([1, 1, 1]))
    [answer] = node.say(APPEND, 2, 1, **late)
    assert node.terms() == [1, 1, 1]
    assert (answer.index, answer.reject) == (1, False)
    node.say(APPEND, 2, 1, index=3, log_term=1, commit=3)
    [answer] = node.say(APPEND, 2, 1, **late)
    assert answer.index == 3


def test_leader_sends_again_what_was_lost_until_it_is_stored() -> None:
    # §5.3 and §5.5: without end, and without harm where it had arrived.
    group = Group([[], [], []])
    leader = group.elect(1)
    group.isolate(3)
    leader.core.propose(b"x")
    group.tick(5)
    assert (leader.core.commit_index, group.nodes[3].terms()) == (2, [1])
    group.isolate()
    group.tick(2)
    assert group.nodes[3].terms() == [1, 1]
    assert group.nodes[3].committed == leader.committed


FIGURE_7_LEADER = [1, 1, 1, 4, 4, 5, 5, 6, 6, 6]


@pytest.mark.parametrize(
    "follower",
    [
        [1, 1, 1, 4, 4, 5, 5, 6, 6],
        [1, 1, 1, 4],
        [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6],
        [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7],
        [1, 1, 1, 4, 4, 4, 4],
        [1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3],
    ],
    ids="abcdef",
)
def test_follower_of_figure_7_ends_with_the_leaders_log(follower: list[int]) -> None:
    group = Group([FIGURE_7_LEADER, follower, []])
    for node in group.nodes.values():
        node.core.step(Message(HEARTBEAT, to=node.core.id, sender=node.core.id % 3 + 1, group=7, term=7))
    group.deliver()
    leader = group.elect(1)
    for node in group.nodes.values():
        assert node.terms() == [*FIGURE_7_LEADER, 8]
        assert node.committed == leader.committed
        assert node.core.commit_index == 11


def test_conflict_search_takes_one_probe_per_term() -> None:
    group = Group([[1] + [6] * 50, [1] + [2] * 20 + [3] * 20 + [4] * 20, [1] + [6] * 50])
    refused: list[Message] = []
    group.seen = lambda message: refused.append(message) if message.type is APPEND_RESPONSE and message.reject else None
    group.elect(1)
    assert group.nodes[2].terms() == group.nodes[1].terms()
    assert len(refused) == 1


# --- §5.4: safety --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("index", "log_term", "granted"),
    [(2, 2, True), (3, 2, True), (1, 2, False), (1, 3, True), (9, 1, False), (0, 0, False)],
)
def test_voter_compares_terms_before_lengths(index: int, log_term: int, granted: bool) -> None:
    node = make_node(terms=[1, 2])
    [answer] = node.say(VOTE, 2, 9, index=index, log_term=log_term)
    assert answer.reject is not granted


def test_candidate_tells_where_its_log_ends() -> None:
    node = make_node(terms=[1, 2, 2])
    node.core.campaign()
    assert {(message.index, message.log_term) for message in node.settle()} == {(3, 2)}


def test_leader_commits_by_counting_only_entries_of_its_own_term() -> None:
    leader = make_leader(terms=[1, 2])
    leader.say(APPEND_RESPONSE, 2, 3, index=2)
    leader.say(APPEND_RESPONSE, 3, 3, index=2)
    assert leader.core.commit_index == 0
    leader.say(APPEND_RESPONSE, 2, 3, index=3)
    assert leader.core.commit_index == 3


def test_figure_8_entry_of_an_old_term_may_be_replaced_while_it_is_not_committed() -> None:
    # (c): S1 leads term 4 and has copied its entry of term 2 to a majority; S5 holds an entry of term 3 there.
    group = Group([[1, 2], [1, 2], [1, 2], [1], [1, 3]])
    for node in group.nodes.values():
        node.core.step(Message(HEARTBEAT, to=node.core.id, sender=node.core.id % 5 + 1, group=7, term=3))
    group.deliver()
    first = group.nodes[1]
    first.core.campaign()
    first.settle()
    for voter in (2, 3):
        first.say(VOTE_RESPONSE, voter, 4)
        first.say(APPEND_RESPONSE, voter, 4, index=2)
    assert first.core.role is Role.LEADER
    assert first.core.commit_index == 0
    for voter in (2, 3):
        group.nodes[voter].say(VOTE, 1, 4, index=2, log_term=2)
    # (d): S5 is elected by the others, in term 5, and replaces it everywhere: nothing committed is lost.
    group.isolate(1)
    group.nodes[5].core.campaign()
    group.deliver()
    group.elect(5)
    group.cut.clear()
    group.tick(2)
    assert all(node.terms() == [1, 3, 5] for node in group.nodes.values())
    assert all(node.committed == first.committed for node in group.nodes.values())


def test_figure_8_entry_under_a_committed_one_of_the_new_term_stays() -> None:
    # (e): S1 commits an entry of term 4 on a majority: S5 cannot win any more.
    group = Group([[1, 2], [1, 2], [1, 2], [1], [1, 3]])
    group.isolate(4, 5)
    group.nodes[1].say(HEARTBEAT, 2, 3)
    group.elect(1)
    assert group.nodes[1].core.commit_index == 3
    group.cut.clear()
    group.isolate(1)
    for _ in range(3):
        group.nodes[5].core.campaign()
        group.deliver()
    assert group.nodes[5].core.role is not Role.LEADER


def test_leader_elected_holds_every_committed_entry() -> None:
    group = Group([[], [], []])
    group.elect(1)
    group.isolate(3)
    group.nodes[1].core.propose(b"committed without 3")
    group.deliver()
    assert group.nodes[1].core.commit_index == 2
    group.cut.clear()
    group.isolate(1)
    for _ in range(3):
        group.nodes[3].core.campaign()
        group.deliver()
        assert group.nodes[3].core.role is not Role.LEADER
    group.elect(2)
    assert group.nodes[3].committed[1].data == b"committed without 3"


def test_follower_applies_nothing_beyond_its_own_log() -> None:
    node = make_node()
    node.say(APPEND, 2, 1, entries=entries_of([1]), commit=9)
    assert node.core.commit_index == 1


# --- §5.5: crashes -------------------------------------------------------------------------------------------------


def test_append_repeated_changes_nothing() -> None:
    node = make_node()
    answers = [node.say(APPEND, 2, 1, entries=entries_of([1, 1]))[0] for _ in range(3)]
    assert [answer.index for answer in answers] == [2, 2, 2]
    assert node.terms() == [1, 1]


# --- §8: client interaction ----------------------------------------------------------------------------------------


def test_leader_begins_its_term_with_an_empty_entry() -> None:
    leader = make_leader(terms=[1])
    assert [(entry.index, entry.term, entry.data) for entry in leader.log.held[1:]] == [(2, 2, b"")]
    assert leader.core.progress()[2].state is ProgressState.PROBE


# --- etcd/raft: the commit index a heartbeat may carry -------------------------------------------------------------


def test_heartbeat_carries_no_commit_beyond_the_match() -> None:
    leader = make_leader()
    leader.say(APPEND_RESPONSE, 2, 1, index=1)
    assert leader.core.commit_index == 1
    leader.core.tick()
    assert [(message.to, message.commit) for message in leader.settle()] == [(2, 1), (3, 0)]


def test_follower_commits_what_a_heartbeat_says() -> None:
    node = make_node()
    node.say(APPEND, 2, 1, entries=entries_of([1, 1]))
    [answer] = node.say(HEARTBEAT, 2, 1, commit=2, context=99)
    assert node.core.commit_index == 2
    assert (answer.type, answer.to, answer.context) == (MessageType.HEARTBEAT_RESPONSE, 2, 99)
    assert of_type([answer], APPEND_RESPONSE) == []
