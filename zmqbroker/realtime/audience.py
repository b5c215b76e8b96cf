"""Everybody in the cluster who wants the same: the subscriptions here, and how many there are at every other node.

Of those with a group one gets each message. The node where it is published chooses the node, and that one the subscription.
The first choice goes round all members of the group, wherever they are: a node that preferred its own would leave the others
without work, since a producer stays where it is. The second goes round those who have credit. A batch is cut into as many
parts as there are members to share it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from zmqbroker.commands import Want
from zmqbroker.realtime.subscription import Subscription

__all__ = ["HERE", "Audience", "Share"]

#: Stands for this node among the uids of others.
HERE = b""

#: Messages of a batch: from the first (from 0) to before the second.
Share = tuple[int, int]


class Audience:
    """The members of one want. It is there as long as anybody is."""

    __slots__ = ("_next", "_turn", "elsewhere", "members", "want")

    def __init__(self, want: Want) -> None:
        self.want = want
        self.members: list[Subscription] = []  # here, in the order of their coming
        self.elsewhere: dict[bytes, int] = {}  # node uid -> how many there, from 1
        self._turn = 0  # whose turn it is among all members of the cluster
        self._next = 0  # whose turn it is among those here

    @property
    def empty(self) -> bool:
        """Whether nobody is left."""
        return not self.members and not self.elsewhere

    @property
    def size(self) -> int:
        """Members in the whole cluster."""
        return len(self.members) + sum(self.elsewhere.values())

    def shares(self, count: int, without: frozenset[bytes] = frozenset()) -> list[tuple[bytes, Share]]:
        """Which nodes get which of `count` messages for their members of the group, but those `without`, out of reach.

        Every member has its turn, so nodes get as much as they have members. Empty when nobody can be reached.
        """
        seats = [(HERE, len(self.members))] if self.members and HERE not in without else []
        seats += [(uid, there) for uid, there in self.elsewhere.items() if uid not in without]
        if not seats:
            return []
        first, self._turn = self._turn, self._turn + count
        return [(seats[seat][0], share) for seat, share in _in_turn([there for _, there in seats], first, count)]

    def spread(self, low: int, high: int) -> list[tuple[Subscription, Share]]:
        """Which members here get which messages, and take them: in turn, those that have credit.

        What nobody has credit for is missed, by the one whose turn it is.
        """
        members = self.members
        if not members:
            return []
        first, self._next = self._next % len(members), self._next + high - low
        found: list[tuple[Subscription, Share]] = []
        for step in range(2 * len(members)):  # once round with equal shares, and once more for what they left over
            member = members[(first + step) % len(members)]
            equal = -(-(high - low) // max(1, len(members) - step))
            if taken := min(equal, member.room):
                member.take(taken)
                found.append((member, (low, low + taken)))
                low += taken
                if low == high:
                    return found
        members[first].missed += high - low
        return found


def _in_turn(weights: Sequence[int], first: int, count: int) -> Iterator[tuple[int, Share]]:
    """Shares of `count` messages for places of some weights, from the member `first` on: each member as much as any other."""
    total = sum(weights)
    parts = min(count, total)
    each, extra = divmod(count, parts)
    seat, position, start = 0, first % total, 0
    while position >= weights[seat]:
        position, seat = position - weights[seat], seat + 1
    while parts:
        turns = min(weights[seat] - position, parts)
        end = start + each * turns + min(extra, turns)
        yield seat, (start, end)
        start, parts, extra = end, parts - turns, extra - min(extra, turns)
        position, seat = 0, (seat + 1) % len(weights)
