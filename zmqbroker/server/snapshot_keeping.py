"""What a leader keeps for followers that a snapshot brings up: its file, and the log behind it.

A follower that has installed a snapshot needs every entry above it. The group may have been told meanwhile to trim many of
these, since who lacks dropped entries counts as away (`trimming`). So the log above the snapshot's index stays while the file
is kept; afterwards that above what each follower that got it has, until it has all that may be trimmed. From there on it holds
the log like every member. One that gets no further is waited for no longer than the file would be kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from zmqbroker.server.snapshot_making import MadeSnapshot
from zmqbroker.server.state_flusher import StateFlusher
from zmqbroker.storage.interfaces import LogStore

if TYPE_CHECKING:
    from zmqbroker.server.group import Group

__all__ = ["KEEP_NS", "KeptSnapshots"]

#: A snapshot that nobody is sent any more is kept so long, where the log has room: another follower may need it too. So long a
#: follower that got one may take nothing of the log behind it.
KEEP_NS = 30_000_000_000


@dataclass(slots=True)
class _Receiver:
    """A follower that got a snapshot and lacks entries that may be trimmed."""

    reached: int  # its match index, at least the snapshot's
    moved_ns: int  # when it last was another one


class KeptSnapshots:
    """One snapshot per group at most, and the pins of the log."""

    def __init__(self, log: LogStore, flusher: StateFlusher, log_budget_bytes: int) -> None:
        self._log, self._flusher, self._budget_bytes = log, flusher, log_budget_bytes
        self._kept: dict[int, MadeSnapshot] = {}  # by group
        self._used_ns: dict[int, int] = {}  # group -> when its kept snapshot was made, or sent last
        self._served: set[int] = set()  # groups whose kept snapshot has arrived somewhere
        self._receivers: dict[tuple[int, int], _Receiver] = {}  # (group, member id)

    def get(self, number: int) -> MadeSnapshot | None:
        """The group's snapshot, if one is kept."""
        return self._kept.get(number)

    def serves(self, group: Group) -> bool:
        """Whether the kept snapshot is of use to every member: the log goes on behind it, and nobody came after it."""
        kept = self._kept.get(group.number)
        needed = max(group.machine.roster.index, self._log.view(group.number).first_index() - 1)
        return kept is not None and kept.snapshot.index >= needed

    def keep(self, number: int, made: MadeSnapshot, now_ns: int) -> None:
        """Offer a new snapshot to the group's core, in the place of the one before."""
        self._remove(number)
        self._kept[number], self._used_ns[number] = made, now_ns
        self._pin(number)
        self._log.offer(number, made.snapshot)

    def sent(self, number: int, member: int, index: int, now_ns: int) -> None:
        """A follower has got the snapshot at `index`: the log behind it stays until it has that, too."""
        self._receivers[number, member] = _Receiver(index, now_ns)
        self._served.add(number)
        self._pin(number)

    def withdraw(self, number: int) -> None:
        """Offer the group's snapshot no more."""
        self._remove(number)
        self._pin(number)

    def clear(self, number: int) -> None:
        """Keep nothing for the group's followers: this node is one itself."""
        self._receivers = {key: receiver for key, receiver in self._receivers.items() if key[0] != number}
        self.withdraw(number)

    def _remove(self, number: int) -> None:
        kept = self._kept.pop(number, None)
        self._served.discard(number)
        if kept is not None:
            self._log.offer(number, None)
            kept.path.unlink(missing_ok=True)

    def tick(self, group: Group, now_ns: int, *, sending: bool) -> None:
        """See what is still needed; `sending`: somebody is being sent the group's snapshot."""
        number = group.number
        self._follow(group, now_ns)
        if sending:
            self._used_ns[number] = now_ns
        elif number in self._kept:
            # Bodies are to move, and the pin is in their way.
            in_the_way = number in self._served and self._log.size_bytes > self._budget_bytes
            if in_the_way or now_ns - self._used_ns[number] > KEEP_NS:
                self._remove(number)
        self._pin(number)

    def _follow(self, group: Group, now_ns: int) -> None:
        receivers = [(member, receiver) for (number, member), receiver in self._receivers.items() if number == group.number]
        if not receivers:
            return
        progress = group.core.progress()  # empty where this node does not lead
        for member, receiver in receivers:
            status = progress.get(member)
            if status is not None and status.match_index > receiver.reached:
                receiver.reached, receiver.moved_ns = status.match_index, now_ns
            complete = receiver.reached >= group.machine.trimmed_index
            if status is None or complete or now_ns - receiver.moved_ns > KEEP_NS:
                del self._receivers[group.number, member]

    def _pin(self, number: int) -> None:
        held = [receiver.reached for (group, _), receiver in self._receivers.items() if group == number]
        kept = self._kept.get(number)
        if kept is not None:
            held.append(kept.snapshot.index)
        self._flusher.pin(number, min(held) if held else None)
