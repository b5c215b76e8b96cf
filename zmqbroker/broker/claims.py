"""Who waits for messages, who holds them, and until when.

A claim is a waiting receive (`Waiter`) or the messages assigned to one (`Assignment`). Each has an order number, unique in the
machine and counted up: it breaks ties between equal deadlines and orders what a session holds. `Claims` indexes all claims of
the machine by session and by deadline; the queues own them. So it does with the consumers that are active where only one may
be (`Active`), which have an order number and a deadline while they do nothing. Nothing here assigns or returns a message.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from zmqbroker.broker.deadlines import Deadlines
from zmqbroker.broker.dirty import Dirty
from zmqbroker.broker.ranges import Range
from zmqbroker.broker.records import deadline_after
from zmqbroker.commands import Receive, ReceiveKey

__all__ = ["ACTIVE_ID", "Active", "Assignment", "Claim", "Claims", "Waiter"]


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


@dataclass(slots=True, eq=False)
class Active:
    """The consumer that gets all messages of a channel, where only one may; compared by identity."""

    number: int  # of the channel
    session: bytes
    consumer: int
    visibility_ms: int  # of its last receive
    dirty: Dirty[int]  # the channel's, of the one key that this has in the store
    claims: int = 0  # of it, on the channel; derived
    order: int = 0  # 0 while it has claims
    deadline_unix_ns: int = 0  # the same; afterwards others may take its place


Claim = Waiter | Assignment

#: The part of the key of a channel's `Active`: there is one at most.
ACTIVE_ID = 0


@dataclass(slots=True)
class _Holdings:
    """All claims of one session, by order number, and where it is active, by channel."""

    waiters: dict[int, Waiter] = field(default_factory=dict)
    assignments: dict[int, Assignment] = field(default_factory=dict)
    actives: dict[int, Active] = field(default_factory=dict)


class Claims:
    """All claims of the machine, by session and by deadline."""

    __slots__ = ("_by_order", "_deadlines", "_sessions", "changed", "next_order")

    def __init__(self) -> None:
        self.next_order = 1  # above every order number ever given
        self._by_order: dict[int, Claim | Active] = {}
        self.changed: dict[int, Active] = {}  # what `settle` is to look at, by channel
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
        if not (holdings.waiters or holdings.assignments or holdings.actives):
            del self._sessions[claim.key.session]

    # --- active consumers ---------------------------------------------------------------------------------------------

    def add_active(self, active: Active) -> None:
        """Index a consumer that is active from now on."""
        self._sessions.setdefault(active.session, _Holdings()).actives[active.number] = active
        active.dirty.created(ACTIVE_ID)
        if active.deadline_unix_ns:
            self._by_order[active.order] = active
            self._deadlines.add(active.order, active.deadline_unix_ns)

    def remove_active(self, active: Active) -> None:
        """A consumer is active no more."""
        self._end_lease(active)
        self.changed.pop(active.number, None)
        active.dirty.deleted(ACTIVE_ID)
        holdings = self._sessions[active.session]
        del holdings.actives[active.number]
        if not (holdings.waiters or holdings.assignments or holdings.actives):
            del self._sessions[active.session]

    def actives(self, session: bytes) -> list[Active]:
        """Where a session has the active consumer, by channel."""
        holdings = self._sessions.get(session)
        return [] if holdings is None else [holdings.actives[number] for number in sorted(holdings.actives)]

    def change(self, active: Active) -> None:
        """An active consumer does something: have `settle` see whether its time runs."""
        self._end_lease(active)
        self.changed[active.number] = active

    def settle(self, now_unix_ns: int) -> None:
        """At the end of an entry: the time runs of those active consumers that do nothing any more."""
        for number in sorted(self.changed):
            active = self.changed[number]
            if not active.claims:
                active.order, active.deadline_unix_ns = self.take_order(), deadline_after(now_unix_ns, active.visibility_ms)
                self._by_order[active.order] = active
                self._deadlines.add(active.order, active.deadline_unix_ns)
                active.dirty.changed(ACTIVE_ID)
        self.changed.clear()

    def _end_lease(self, active: Active) -> None:
        if active.order:
            del self._by_order[active.order]
            self._deadlines.discard(active.order)
            active.order = active.deadline_unix_ns = 0
            active.dirty.changed(ACTIVE_ID)

    # --- what is asked ------------------------------------------------------------------------------------------------

    def earliest(self) -> int | None:
        """The next deadline of any claim."""
        return self._deadlines.earliest()

    def take_due(self, now_unix_ns: int) -> list[Claim | Active]:
        """Those whose deadline is not after now, by (deadline, order); the caller removes each, once."""
        return [self._by_order[order] for order in self._deadlines.take_due(now_unix_ns)]

    def sessions(self) -> Iterator[bytes]:
        """The sessions that hold any claim or are active, in no promised order."""
        return iter(self._sessions)

    def holds(self, session: bytes) -> bool:
        """True when the session waits, holds messages, or is active."""
        return session in self._sessions

    def waiters(self, session: bytes) -> list[Waiter]:
        """The waiting receives of a session, oldest first."""
        holdings = self._sessions.get(session)
        return [] if holdings is None else [holdings.waiters[order] for order in sorted(holdings.waiters)]

    def assignments(self, session: bytes) -> list[Assignment]:
        """The assignments of a session, oldest first."""
        holdings = self._sessions.get(session)
        return [] if holdings is None else [holdings.assignments[order] for order in sorted(holdings.assignments)]
