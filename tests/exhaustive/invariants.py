"""What must hold of every step of a node, of every state of the group, and what has to be remembered to tell.

`check_step` sees one node before and after an input, `check_group` all nodes after it; `remember` keeps the ghosts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tests.exhaustive.replica import Mail, Outcome, Replica, Violation
from zmqbroker.raft.messages import MessageType, Role
from zmqbroker.raft.progress import ProgressState

__all__ = ["Ghosts", "check_group", "check_step", "remember"]

#: A majority of three.
QUORUM = 2
_LEADER = int(Role.LEADER)
_CANDIDATE = int(Role.CANDIDATE)


class Ghosts(NamedTuple):
    """What the group has been through."""

    leaders: tuple[int, ...]  # per term, the place of who led it; -1 for nobody, and when nobody could lead it any more
    chosen: tuple[tuple[int, int], ...] = ()  # per index, the term of the committed entry and the term that committed it


def require(holds: bool, what: str) -> None:
    """Raise `Violation` unless it does."""
    if not holds:
        raise Violation(what)


def starts_with(log: Sequence[int], prefix: Sequence[int]) -> bool:
    """True when the log begins with the prefix."""
    return log[: len(prefix)] == prefix


# --- one node ----------------------------------------------------------------------------------------------------------


def check_step(before: Replica, outcome: Outcome, *, crashed: bool) -> None:
    """Invariants of one node over one input, and of what it says."""
    after = outcome.replica
    require(after.stored[0] >= before.stored[0], "a durable term goes back")
    same_term = after.stored[0] == before.stored[0]
    require(not same_term or before.stored[1] in (0, after.stored[1]), "a durable vote is changed or forgotten")
    require(after.term >= after.stored[0], "the durable term is ahead of the term")
    if not crashed:
        require(after.term >= before.term, "a term goes back")
        require(after.term > before.term or before.vote in (0, after.vote), "a vote is changed within a term")
        require(after.commit >= before.commit, "a commit index goes back")
        require(starts_with(after.log, before.log[: before.commit]), "a committed entry is changed")
    _check_content(after)
    for to, mail in outcome.sent:
        _check_mail(after, to, mail)
    if after.role == _LEADER and (before.role != _LEADER or before.term != after.term):
        granted = sum(vote for _, vote in before.votes)
        require(before.role == _CANDIDATE and before.term == after.term, "a leader that was no candidate of its term")
        require(granted + 1 >= QUORUM, "a leader without a majority of votes")
        require(after.stored == (after.term, 1), "a leader whose own vote is not durable")


def _check_content(replica: Replica) -> None:
    log, stable = replica.log, replica.offset - 1
    require(replica.commit <= len(log), "committed what is not there")
    require(list(log) == sorted(log), "terms fall in a log")
    require(not log or log[-1] <= replica.term, "an entry of a later term than the node's")
    require(replica.offset <= replica.in_progress <= len(log) + 1, "what is being written is not the log's")
    require(stable <= len(replica.durable), "what counts as durable is not")
    for number, follower in enumerate(replica.progress, start=1):
        require(follower.match_index < follower.next_index <= len(log) + 1, "next_index is outside of the log")
        require(number != 1 or follower.match_index <= stable, "a leader counts its own entry before it is durable")
        require(follower.state != ProgressState.SNAPSHOT, "a snapshot where nothing was dropped")


def _check_mail(sender: Replica, to: int, mail: Mail) -> None:
    """What leaves a node rests on what is durable there; what leaves a leader is its own."""
    kind, stored_term = mail.type, sender.stored[0]
    if kind == MessageType.REQUEST_VOTE_RESPONSE and not mail.reject:
        require(stored_term >= mail.term, "a vote is sent before its term is durable")
        require(stored_term > mail.term or sender.stored[1] == to, "a vote is sent before it is durable")
    elif kind == MessageType.APPEND_ENTRIES_RESPONSE:
        require(stored_term >= mail.term, "a term is accepted before it is durable")
        if not mail.reject and stored_term == mail.term:
            require(len(sender.durable) >= mail.index, "entries are acknowledged before they are durable")
    elif kind == MessageType.REQUEST_VOTE:
        require(sender.stored == (mail.term, 1), "a vote is asked for before the own is durable")
        require(len(sender.durable) >= mail.index, "a vote is asked for with a log that is not durable")
    elif kind in (MessageType.APPEND_ENTRIES, MessageType.HEARTBEAT):
        require(sender.role == _LEADER and mail.term == sender.term, "AppendEntries of a node that does not lead")
        log = sender.log
        require(log[mail.index : mail.index + len(mail.terms)] == mail.terms, "a leader sends what it does not have")
        require(mail.commit <= sender.commit, "a leader sends a commit index beyond its own")


# --- the group ---------------------------------------------------------------------------------------------------------


def remember(nodes: Sequence[Replica], position: int, before: Replica, ghosts: Ghosts) -> Ghosts:
    """Note what the step of the node at `position` adds; checks elections and commits."""
    node = nodes[position]
    leaders, chosen = list(ghosts.leaders), ghosts.chosen
    if node.role == _LEADER and (before.role != _LEADER or before.term != node.term):
        # Not twice either: it could give the same index and term to another entry.
        require(leaders[node.term] == -1, "two leaders in one term")
        leaders[node.term] = position
        terms = tuple(term for term, committed in chosen if committed < node.term)
        require(starts_with(node.log, terms), "a leader lacks a committed entry")
    if node.commit > len(chosen):
        require(node.role == _LEADER, "a follower commits what no leader has committed")
        require(node.log[node.commit - 1] == node.term, "an entry of an earlier term is committed by counting")
        log = node.log[: node.commit]
        holders = sum(starts_with(other.durable, log) for other in nodes)
        require(holders >= QUORUM, "committed without a durable majority")
        require(starts_with(log, tuple(term for term, _ in chosen)), "another entry was committed there")
        chosen += tuple((term, node.term) for term in log[len(chosen) :])
    # Nobody can vote in a term below this one any more, whatever crashes.
    floor = min(other.stored[0] for other in nodes)
    for term in range(min(floor, len(leaders))):
        leaders[term] = -1
    return Ghosts(tuple(leaders), chosen)


def check_group(nodes: Sequence[Replica], chosen: Sequence[tuple[int, int]]) -> None:
    """Invariants between the nodes, after any step."""
    logs = list({log for node in nodes for log in (node.log, node.durable)})
    for position, log in enumerate(logs):
        for other in logs[:position]:
            require(_match(log, other), "logs with an equal entry differ before it")
    for place, node in enumerate(nodes):
        committed = tuple(term for term, _ in chosen[: node.commit])
        require(len(committed) == node.commit and starts_with(node.log, committed), "another entry was committed there")
        for distance, follower in enumerate(node.progress[1:], start=1):
            _check_acknowledged(node, follower.match_index, nodes[(place + distance) % len(nodes)])


def _check_acknowledged(leader: Replica, match_index: int, node: Replica) -> None:
    """What a node has acknowledged to the leader of its term is durable there, whatever crashed since."""
    if match_index:
        require(node.stored[0] >= leader.term, "a node has forgotten the term in which it acknowledged entries")
        acknowledged = leader.log[:match_index]
        require(node.stored[0] > leader.term or starts_with(node.durable, acknowledged), "an acknowledged entry is lost")


def _match(one: Sequence[int], other: Sequence[int]) -> bool:
    for index in range(min(len(one), len(other)) - 1, -1, -1):
        if one[index] == other[index]:
            return one[: index + 1] == other[: index + 1]
    return True
