"""One history step by step, with the invariants checked: what a counterexample is pasted into; the plain twin of `Model`."""

from __future__ import annotations

from tests.exhaustive.invariants import Ghosts, check_group, check_step, remember
from tests.exhaustive.replica import NEW, Crash, Mail, Outcome, Replica, Runner
from tests.exhaustive.scope import Scope

__all__ = ["Walk"]


class Walk:
    """Three nodes, named 1, 2, 3, and the messages under way. Every call raises `Violation` when an invariant breaks."""

    def __init__(self, scope: Scope) -> None:
        self._runner = Runner(pre_vote=scope.pre_vote)
        self._ghosts = Ghosts((-1,) * (scope.terms + 1))
        self.nodes = [NEW, NEW, NEW]
        self.under_way: list[tuple[int, int, Mail]] = []  # receiver, sender, message

    def node(self, name: int) -> Replica:
        """The state of a node."""
        return self.nodes[name - 1]

    def campaign(self, name: int) -> None:
        """The election timeout of a node passes."""
        self._take(name, self._runner.campaign(self.node(name)))

    def heartbeat(self, name: int) -> None:
        """A leader sends heartbeats."""
        self._take(name, self._runner.heartbeat(self.node(name)))

    def propose(self, name: int) -> None:
        """A leader is given something."""
        self._take(name, self._runner.propose(self.node(name)))

    def complete(self, name: int) -> None:
        """The disk of a node does the oldest work."""
        self._take(name, self._runner.complete(self.node(name)))

    def crash(self, name: int, *, records: int, commit: bool) -> None:
        """A node restarts; so many records of the works under way are durable, and the commit index is known or not."""
        self._take(name, self._runner.crash(self.node(name), Crash(records, commit)), crashed=True)

    def deliver(self, name: int, sender: int, mail: Mail) -> None:
        """A message arrives."""
        self.under_way.remove((name, sender, mail))
        self._receive(name, sender, mail)

    def duplicate(self, name: int, sender: int, mail: Mail) -> None:
        """A message arrives, and will again."""
        assert (name, sender, mail) in self.under_way
        self._receive(name, sender, mail)

    def drop(self, name: int, sender: int, mail: Mail) -> None:
        """A message is lost."""
        self.under_way.remove((name, sender, mail))

    def _receive(self, name: int, sender: int, mail: Mail) -> None:
        distance = (sender - name) % 3
        self._take(name, self._runner.deliver(self.node(name), 1 + distance, mail))

    def _take(self, name: int, outcome: Outcome, *, crashed: bool = False) -> None:
        before = self.node(name)
        check_step(before, outcome, crashed=crashed)
        self.nodes[name - 1] = outcome.replica
        self._ghosts = remember(self.nodes, name - 1, before, self._ghosts)
        check_group(self.nodes, self._ghosts.chosen)
        self.under_way += [((name + to - 2) % 3 + 1, name, mail) for to, mail in outcome.sent]
