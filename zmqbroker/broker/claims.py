"""Who waits for messages, who holds them, and until when.

A claim is a waiting receive (`Waiter`) or the messages assigned to one (`Assignment`). Each has an order number, unique in the
machine and counted up: it breaks ties between equal deadlines and orders what a session holds. `Claims` indexes all claims of
the machine by session and by deadline; the queues own them. Nothing here assigns or returns a message.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from zmqbroker.broker.deadlines import Deadlines
from zmqbroker.broker.ranges import Range
from zmqbroker.commands import Receive, ReceiveKey

__all__ = ["Assignment", "Claim", "Claims", "Waiter"]


@dataclass(slots=True, frozen=True, eq=False)
class Waiter:
    """A receive that waits for messages until its deadline."""

    order: int
    number: int  # of its channel
    deadline_unix_ns: int  # end of the wait
    command: Receive

    @property
    def key(self) -> ReceiveKey:
        """Whose receive it is."""
        return self.command.key


@dataclass(slots=True, frozen=True, eq=False)
class Assignment:
    """Messages that one receive holds until its deadline; compared by identity."""

    order: int
    number: int  # of its channel
    deadline_unix_ns: int  # end of the visibility timeout
    key: ReceiveKey
    assigning: int  # the first part of its receipts
    held: list[Range[int]]  # with delivery counts, ascending, disjoint; never empty while the claim exists


Claim = Waiter | Assignment


@dataclass(slots=True)
class _Holdings:
    """All claims of one session, by order number."""

    waiters: dict[int, Waiter] = field(default_factory=dict)
    assignments: dict[int, Assignment] = field(default_factory=dict)


class Claims:
    """All claims of the machine, by session and by deadline."""

    __slots__ = ("_by_order", "_deadlines", "_sessions", "next_order")

    def __init__(self) -> None:
        self.next_order = 1  # above every order number ever given
        self._by_order: dict[int, Claim] = {}
        self._deadlines = Deadlines()  # of all claims, but of those that `take_due` returned and nobody removed yet
        self._sessions: dict[bytes, _Holdings] = {}  # only sessions that hold something

    def __contains__(self, claim: Claim) -> bool:
        """True until the claim is removed."""
        return claim.order in self._by_order

    def take_order(self) -> int:
        """The next order number."""
        order = self.next_order
        self.next_order = order + 1
        return order

    def add(self, claim: Claim) -> None:
        """Index a new claim."""
        self._by_order[claim.order] = claim
        self._deadlines.add(claim.order, claim.deadline_unix_ns)
        holdings = self._sessions.get(claim.key.session)
        if holdings is None:
            holdings = self._sessions[claim.key.session] = _Holdings()
        if isinstance(claim, Waiter):
            holdings.waiters[claim.order] = claim
        else:
            holdings.assignments[claim.order] = claim

    def remove(self, claim: Claim) -> None:
        """Forget a claim."""
        del self._by_order[claim.order]
        self._deadlines.discard(claim.order)
        holdings = self._sessions[claim.key.session]
        if isinstance(claim, Waiter):
            del holdings.waiters[claim.order]
        else:
            del holdings.assignments[claim.order]
        if not holdings.waiters and not holdings.assignments:
            del self._sessions[claim.key.session]

    def earliest(self) -> int | None:
        """The next deadline of any claim."""
        return self._deadlines.earliest()

    def take_due(self, now_unix_ns: int) -> list[Claim]:
        """The claims whose deadline is not after now, by (deadline, order); the caller removes each, once."""
        return [self._by_order[order] for order in self._deadlines.take_due(now_unix_ns)]

    def sessions(self) -> Iterator[bytes]:
        """The sessions that hold any claim, in no promised order."""
        return iter(self._sessions)

    def holds(self, session: bytes) -> bool:
        """True when the session waits or holds messages."""
        return session in self._sessions

    def waiters(self, session: bytes) -> list[Waiter]:
        """The waiting receives of a session, oldest first."""
        holdings = self._sessions.get(session)
        return [] if holdings is None else [holdings.waiters[order] for order in sorted(holdings.waiters)]

    def assignments(self, session: bytes) -> list[Assignment]:
        """The assignments of a session, oldest first."""
        holdings = self._sessions.get(session)
        return [] if holdings is None else [holdings.assignments[order] for order in sorted(holdings.assignments)]
