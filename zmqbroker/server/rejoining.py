"""Members whose data is gone, or not to be trusted, come back by themselves: the leader replaces each by its namesake.

Such a node has a new uid and says in HELLO that it rejoins. It is taken in as a learner, and one joint change gives it the vote
of its old self (server/membership.py does the rest). So it never votes as its old self, and no promise of that one is broken.
What must hold before: the old uid is silent, nobody else is on the way in, and a majority of the voters works without it.
Source: DESIGN §4 and §5, docs/PROTOCOL.md §8.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import replace

from zmqbroker.commands import Member, Roster
from zmqbroker.config import CLUSTER_SIZE_MAX, majority_of
from zmqbroker.errors import InvalidRequest
from zmqbroker.raft.confchange import ConfChange
from zmqbroker.server.acquaintances import FRESH_NS, Acquaintances, PeerState
from zmqbroker.server.group import Group
from zmqbroker.server.membership import addition, membership_of, removal

__all__ = ["INTERVAL_NS", "SILENCE_NS", "Rejoining", "due"]

#: The old uid must have been silent for so long, and this node have led: three HELLOs, so that no node loses its place to a
#: namesake that was started by mistake while it works.
SILENCE_NS = FRESH_NS
#: From one change to the next: a node that fails again and again costs the cluster little.
INTERVAL_NS = 5_000_000_000

journal = logging.getLogger("zmqbroker")


class Rejoining:
    """Looks, once a second, whether a member is to be replaced by itself."""

    def __init__(self, tick_ms: int) -> None:
        self._tick_ns = tick_ms * 1_000_000
        self._changed_ns = -INTERVAL_NS  # when the last change was proposed, monotonic

    def look(self, group: Group, known: Acquaintances, now_ns: int) -> None:
        """Propose one change, if this node leads the group and one is due."""
        if not group.leading or group.led_ticks * self._tick_ns < SILENCE_NS or now_ns - self._changed_ns < INTERVAL_NS:
            return
        active = [id for id, status in group.core.progress().items() if status.recent_active]
        found = due(group.machine.roster, {group.core.id, *active}, known, now_ns)
        if found is not None:
            what, change = found
            journal.info("%s", what)
            self._changed_ns = now_ns
            group.change_members(change)


def due(roster: Roster, active: Collection[int], known: Acquaintances, now_ns: int) -> tuple[str, ConfChange] | None:
    """The change that is to be made now, and what it is in words; None for none.

    `active` are the members that Raft heard from lately, this leader included.
    """
    membership = membership_of(roster)
    coming = [member.id for member in roster.members if member.voter and not membership.is_voter(member.id)]
    if membership.joint or set(coming) & set(active):
        return None
    for peer in sorted(known.strangers.values(), key=lambda stranger: stranger.uid):
        lost = _lost(roster, peer, active, known, now_ns)
        if not lost:
            continue
        if len(set(membership.voters) & set(active) - {lost[0].id}) < majority_of(len(membership.voters)):
            continue
        try:
            if len(lost) > 1:  # the one that was to take the place is lost, too
                return f"{peer.name} has lost its data again before it voted", removal(membership, lost[-1].id, active)
            newcomer = Member(0, peer.name, peer.uid, peer.address)
            change = addition(roster, replace(newcomer, voter=lost[0].voter, replaces=lost[0].id), CLUSTER_SIZE_MAX)
        except InvalidRequest:
            continue
        return f"{peer.name} has lost its data, or does not trust it: it gets a copy and takes its own place again", change
    return None


def _lost(roster: Roster, peer: PeerState, active: Collection[int], known: Acquaintances, now_ns: int) -> list[Member]:
    """The members whose place `peer` may take, oldest first; empty when it may not, or one of them is there."""
    if not peer.rejoins or peer.formed or now_ns - peer.heard_ns >= FRESH_NS:
        return []
    namesakes = [member for member in roster.members if member.name == peer.name]
    for member in namesakes:
        old = known.with_id(member.id)
        if member.id in active or (old is not None and now_ns - old.heard_ns < SILENCE_NS):
            return []
    return namesakes
