"""Who votes and who only listens in one group, at one index of its log.

While a change is under way there are two sets of voters and every decision needs a majority of each (joint consensus). Pure
values; `confchange` makes the next one from a change. Invariants: ids in ascending order, each once; nobody is voter and
learner at the same time; `learners_next` and `auto_leave` mean something in a joint membership only.
Source: Raft §6, thesis §4.3.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Membership"]


def _ids(ids: Iterable[int]) -> str:
    return " ".join(str(id) for id in ids)


@dataclass(frozen=True, slots=True)
class Membership:
    """Ids of nodes, from 1. The name of a field is the reference's."""

    voters: tuple[int, ...] = ()  # of the newer set, while two are in force
    voters_outgoing: tuple[int, ...] = ()  # of the older set; empty unless two are in force
    learners: tuple[int, ...] = ()  # get the log and count for nothing
    learners_next: tuple[int, ...] = ()  # voters of the older set that become learners when it ends
    auto_leave: bool = False  # the leader ends the joint membership by itself

    @property
    def joint(self) -> bool:
        """True while two sets of voters are in force."""
        return bool(self.voters_outgoing)

    @property
    def all_voters(self) -> tuple[int, ...]:
        """Voters of either set, ascending."""
        return tuple(sorted({*self.voters, *self.voters_outgoing})) if self.voters_outgoing else self.voters

    @property
    def all_nodes(self) -> tuple[int, ...]:
        """Everybody who gets the log, ascending."""
        return tuple(sorted({*self.voters, *self.voters_outgoing, *self.learners}))

    def is_voter(self, id: int) -> bool:
        """True for a voter of either set."""
        return id in self.voters or id in self.voters_outgoing

    def faults(self) -> list[str]:
        """What makes this no membership that a group can have; empty when it is one."""
        found = []
        for name in ("voters", "voters_outgoing", "learners", "learners_next"):
            ids: tuple[int, ...] = getattr(self, name)
            if list(ids) != sorted(set(ids)) or any(id < 1 for id in ids):
                found.append(f"{name} {ids} are not ascending ids from 1, each once")
        both = [id for id in self.learners if self.is_voter(id)]
        if both:
            found.append(f"nodes {both} are voters and learners at the same time")
        strangers = [id for id in self.learners_next if id not in self.voters_outgoing]
        if strangers:
            found.append(f"nodes {strangers} are to become learners and are no voters of the older set")
        if not self.joint and (self.learners_next or self.auto_leave):
            found.append("learners_next and auto_leave belong to a joint membership")
        return found

    def __str__(self) -> str:
        text = f"voters=({_ids(self.voters)})"
        if self.voters_outgoing:
            text += f"&&({_ids(self.voters_outgoing)})"
        if self.learners:
            text += f" learners=({_ids(self.learners)})"
        if self.learners_next:
            text += f" learners_next=({_ids(self.learners_next)})"
        return text + " autoleave" if self.auto_leave else text
