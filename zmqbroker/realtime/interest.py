"""Who wants what in the whole cluster, as one node knows it: its own subscriptions, and what the other nodes have told.

Nothing here is agreed on or stored. What another node told holds until it tells otherwise, has begun a new run, or is forgotten
because it is silent; so for a moment a message may go to a node where nobody wants it any more, or miss one that has just
subscribed. Matches of busy names are kept until anybody's interest changes. Source: docs/PROTOCOL.md §8, INTEREST.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from zmqbroker.commands import Announcement, RealtimeKind, Want
from zmqbroker.errors import Busy, InvalidRequest
from zmqbroker.realtime.announcing import Neighbour, OwnInterest
from zmqbroker.realtime.audience import Audience
from zmqbroker.realtime.subscription import Subscription
from zmqbroker.realtime.trie import PatternTrie

__all__ = ["Found", "Interest"]

#: Names whose matches are kept; all are dropped when one more comes. A busy producer has a handful.
FOUND_MAX = 4096
#: Subscriptions of one connection: a client with more of them than patterns that matter wants `>`.
PER_CONNECTION_MAX = 10_000
#: Subscriptions of one node: some hundred bytes each.
PER_NODE_MAX = 100_000


class Found(NamedTuple):
    """Who gets a message of some name."""

    members: tuple[Subscription, ...]  # here, without a group: each of them
    nodes: tuple[bytes, ...]  # uids of other nodes where somebody without a group wants it
    groups: tuple[Audience, ...]  # of each of them one member, here or elsewhere
    subscribers: int  # how many get it: all without a group, and one of each group


class Interest:
    """The subscriptions of this node and the wants of all others."""

    def __init__(self, run: bytes) -> None:
        self.own = OwnInterest(run)
        self._tries: dict[RealtimeKind, PatternTrie[Audience]] = {kind: PatternTrie() for kind in RealtimeKind}
        self._audiences: dict[Want, Audience] = {}
        self._owners: dict[bytes, dict[int, Subscription]] = {}  # routing id -> number -> subscription
        self._neighbours: dict[bytes, Neighbour] = {}  # by node uid
        self._found: dict[tuple[RealtimeKind, str], Found] = {}
        self.count = 0  # subscriptions here

    # --- subscriptions of this node ------------------------------------------------------------------------------------

    def get(self, owner: bytes, number: int) -> Subscription | None:
        """The subscription that a connection calls by a number."""
        return self._owners.get(owner, {}).get(number)

    def owners(self) -> list[bytes]:
        """The connections that have subscriptions."""
        return list(self._owners)

    def subscribe(self, subscription: Subscription) -> Subscription:
        """Add one; a repeat gives the one that is there. Raises InvalidRequest for a number in use, Busy over a limit."""
        known = self.get(subscription.owner, subscription.number)
        if known is not None:
            if known.want != subscription.want:
                raise InvalidRequest(
                    f"field subscription is {known.number}, which this connection has subscribed to {known.want.pattern!r} with"
                )
            return known
        mine = self._owners.get(subscription.owner, {})
        if len(mine) >= PER_CONNECTION_MAX:
            raise Busy(f"a connection has at most {PER_CONNECTION_MAX} subscriptions")
        if self.count >= PER_NODE_MAX:
            raise Busy(f"a node has at most {PER_NODE_MAX} subscriptions")
        self._owners.setdefault(subscription.owner, {})[subscription.number] = subscription
        audience = self._audience(subscription.want)
        audience.members.append(subscription)
        self.count += 1
        self._changed(audience)
        return subscription

    def unsubscribe(self, owner: bytes, number: int) -> Subscription | None:
        """End one; None when there is none of that number."""
        subscription = self._owners.get(owner, {}).pop(number, None)
        if subscription is None:
            return None
        if not self._owners[owner]:
            del self._owners[owner]
        audience = self._audiences[subscription.want]
        audience.members.remove(subscription)
        self.count -= 1
        self._changed(audience)
        return subscription

    def drop(self, owner: bytes) -> list[Subscription]:
        """End all of a connection, which is gone."""
        ended = [self.unsubscribe(owner, number) for number in list(self._owners.get(owner, ()))]
        return [subscription for subscription in ended if subscription is not None]

    def _changed(self, audience: Audience) -> None:
        self.own.put(audience.want, len(audience.members))
        self._settle(audience)

    # --- what other nodes want -------------------------------------------------------------------------------------------

    def hear(self, uid: bytes, told: Announcement, now_ns: int) -> bool:
        """Take what another node tells; True when something of it is not known, so that it should be asked for the whole."""
        neighbour = self._neighbours.setdefault(uid, Neighbour())
        self._follow(uid, neighbour.hear(told, now_ns))
        return neighbour.behind

    def forget(self, uid: bytes) -> None:
        """Another node is gone, and with it all that it wanted."""
        neighbour = self._neighbours.pop(uid, None)
        if neighbour is not None:
            self._follow(uid, [(want, 0) for want in neighbour.counts])

    def silent(self, since_ns: int) -> list[bytes]:
        """The nodes that were heard and have told nothing since then."""
        return [uid for uid, neighbour in self._neighbours.items() if neighbour.heard_ns < since_ns]

    def _follow(self, uid: bytes, changes: Iterable[tuple[Want, int]]) -> None:
        for want, count in changes:
            audience = self._audience(want)
            if count:
                audience.elsewhere[uid] = count
            else:
                audience.elsewhere.pop(uid, None)
            self._settle(audience)

    # --- who gets what ---------------------------------------------------------------------------------------------------

    def audience(self, want: Want) -> Audience | None:
        """Everybody who wants just that."""
        return self._audiences.get(want)

    def find(self, kind: RealtimeKind, name: str) -> Found:
        """Who gets a message of a name."""
        found = self._found.get((kind, name))
        if found is None:
            if len(self._found) >= FOUND_MAX:
                self._found.clear()
            found = self._found[kind, name] = _found(self._tries[kind].match(name))
        return found

    def _audience(self, want: Want) -> Audience:
        audience = self._audiences.get(want)
        if audience is None:
            audience = self._audiences[want] = Audience(want)
            self._tries[want.kind].add(want.pattern, audience)
        return audience

    def _settle(self, audience: Audience) -> None:
        """Somebody came or went: nothing that was found before holds, and an audience without anybody ends."""
        self._found.clear()
        if audience.empty:
            del self._audiences[audience.want]
            self._tries[audience.want.kind].remove(audience.want.pattern, audience)


def _found(audiences: Iterable[Audience]) -> Found:
    members: list[Subscription] = []
    nodes: dict[bytes, None] = {}  # a set that keeps the order
    groups: list[Audience] = []
    subscribers = 0
    for audience in audiences:
        if audience.want.group:
            groups.append(audience)
        else:
            members += audience.members
            nodes.update(dict.fromkeys(audience.elsewhere))
            subscribers += audience.size
    return Found(tuple(members), tuple(nodes), tuple(groups), subscribers + len(groups))
