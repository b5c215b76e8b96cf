"""One consumer at a time: who gets all messages of a channel with the setting `single_active`.

The first consumer that receives is active: it alone is given messages, whatever others wait. It is so until it closes, its
session ends, or it neither waits nor holds messages for the visibility time of its last receive. Then the waiting consumer
of the highest priority takes over, the one that waits longest among equals, or else the next one that receives. A consumer
of a higher priority that comes later preempts nobody. What others hold when the setting is made stays theirs.

Invariant: where receives wait, a consumer is active, but within a command. Source: docs/PROTOCOL.md §3, settings.
"""

from __future__ import annotations

from zmqbroker.broker.claims import ACTIVE_ID, Active, Claim, Claims, Waiter
from zmqbroker.broker.dirty import Dirty
from zmqbroker.broker.waiting import WaitingReceives
from zmqbroker.commands import Receive, ReceiveKey

__all__ = ["SingleActive"]


class SingleActive:
    """The active consumer of one channel, and those of its receives that wait."""

    __slots__ = ("_claims", "_dirty", "_number", "active", "lineup")

    def __init__(self, number: int, claims: Claims, dirty: Dirty[int]) -> None:
        self.active: Active | None = None
        self.lineup = WaitingReceives()  # of the active consumer; `Queue.waiting` has them, too, and is what is stored
        self._number = number  # of the channel
        self._claims = claims
        self._dirty = dirty

    def is_active(self, key: ReceiveKey) -> bool:
        """Whether a receive is one of the active consumer."""
        active = self.active
        return active is not None and active.consumer == key.consumer and active.session == key.session

    def choose(self, command: Receive) -> None:
        """Make the consumer of a receive the active one; there is none now."""
        key = command.key
        self.restore(Active(self._number, key.session, key.consumer, command.visibility_ms, self._dirty))

    def restore(self, active: Active) -> None:
        """Begin with an active consumer, whose claims are there already."""
        self.active = active
        self._claims.add_active(active)
        own: list[Claim] = [*self._claims.waiters(active.session), *self._claims.assignments(active.session)]
        for claim in own:
            if claim.number == self._number and claim.key.consumer == active.consumer:
                active.claims += 1
                if isinstance(claim, Waiter):
                    self.lineup.add(claim)
        if not active.order:
            self._claims.change(active)

    def renew(self, command: Receive) -> None:
        """The active consumer receives: its time begins anew when it has ended with that."""
        active = self.active
        assert active is not None
        if active.visibility_ms != command.visibility_ms:
            active.visibility_ms = command.visibility_ms
            self._dirty.changed(ACTIVE_ID)
        self._claims.change(active)

    def retire(self) -> None:
        """Nobody is active any more."""
        if self.active is not None:
            self._claims.remove_active(self.active)
            self.active, self.lineup = None, WaitingReceives()

    def came(self, claim: Claim) -> None:
        """A receive waits, or got messages."""
        if self.is_active(claim.key):
            assert self.active is not None
            self.active.claims += 1
            self._claims.change(self.active)
            if isinstance(claim, Waiter):
                self.lineup.add(claim)

    def went(self, claim: Claim) -> None:
        """It waits no more, or holds nothing any more."""
        if self.is_active(claim.key):
            assert self.active is not None
            self.active.claims -= 1
            self._claims.change(self.active)
            if isinstance(claim, Waiter):
                self.lineup.remove(claim)
