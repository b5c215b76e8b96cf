"""One node of a scripted cluster: its core, its log in memory, and the work that its two threads have not done."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from random import Random

from tests.conformance.raft.script import Command
from zmqbroker.errors import Compacted
from zmqbroker.raft import RaftConfig, RaftCore
from zmqbroker.raft.membership import Membership
from zmqbroker.raft.messages import Entry, EntryType, HardState, Snapshot, StorageAppend

__all__ = ["ELECTION_TICKS", "ScriptedNode"]

#: The reference's interaction environment has these timeouts.
ELECTION_TICKS = 3
_HEARTBEAT_TICKS = 1
#: Stands for "no limit".
_PLENTY = 1 << 60


class History:
    """A `LogView` over lists, with a snapshot of every state that was applied."""

    def __init__(self, index: int, membership: Membership) -> None:
        self._base = index  # everything up to here is in the first snapshot
        self._base_term = 1 if index else 0
        self.held: list[Entry] = []
        self._hard_state = HardState(0, 0, index)
        self.snapshots = [Snapshot(index, self._base_term, membership)]

    def hard_state(self) -> HardState:
        return self._hard_state

    def first_index(self) -> int:
        return self._base + 1

    def last_index(self) -> int:
        return self._base + len(self.held)

    def term(self, index: int) -> int:
        if index < self._base:
            raise Compacted(f"{index}")
        return self._base_term if index == self._base else self.held[index - self._base - 1].term

    def entries(self, low: int, high: int, size_max: int) -> tuple[Entry, ...]:
        if low <= self._base:
            raise Compacted(f"{low}")
        return tuple(self.held[low - self._base - 1 : high - self._base - 1])

    def snapshot(self) -> Snapshot:
        return self.snapshots[-1]

    def compact(self, index: int) -> None:
        """Drop everything up to `index`; raises `Compacted` when that was done before."""
        if index <= self._base:
            raise Compacted(f"{index}")
        term = self.term(index)
        del self.held[: index - self._base]
        self._base, self._base_term = index, term

    def write(self, work: StorageAppend) -> None:
        """Do a core's work."""
        if work.hard_state is not None:
            self._hard_state = work.hard_state
        if work.snapshot is not None:
            self._base, self._base_term, self.held = work.snapshot.index, work.snapshot.term, []
            self.snapshots.append(work.snapshot)
        if work.entries:
            del self.held[work.entries[0].index - self._base - 1 :]
            self.held.extend(work.entries)


def _config(id: int, options: Command) -> RaftConfig:
    return RaftConfig(
        id=id,
        group=0,
        election_ticks=ELECTION_TICKS,
        heartbeat_ticks=_HEARTBEAT_TICKS,
        inflight_messages_max=int(options.option("inflight", str(_PLENTY))),
        inflight_bytes_max=_PLENTY,
        message_bytes_max=_PLENTY,
        uncommitted_bytes_max=_PLENTY,
        committed_bytes_max=int(options.option("max-committed-size-per-ready", str(_PLENTY))),
        pre_vote=options.flag("prevote"),
        check_quorum=options.flag("checkquorum"),
        step_down_on_removal=options.flag("step-down-on-removal"),
        validate_changes=not options.flag("disable-conf-change-validation"),
        share_commit_in_votes=False,
        commit_at_tick=False,
        lease_reads=options.option("read-only") == "lease-based",
        forward_to_leader=True,
        campaign_before_durable=True,
        apply_unstable=not options.flag("async-storage-writes"),
    )


class ScriptedNode:
    """A node as `add-nodes` makes it; `options` is that command."""

    def __init__(self, id: int, options: Command, trace: Callable[[str], None]) -> None:
        self.id = id
        self.asynchronous = options.flag("async-storage-writes")
        voters, learners = options.option_ids("voters"), options.option_ids("learners")
        membership = Membership(voters=tuple(sorted(voters)), learners=tuple(sorted(learners)))
        index = int(options.option("index", "0"))
        self.log = History(index, membership)
        self.core = RaftCore(_config(id, options), membership, self.log, Random(id), index, trace)
        self.appends: deque[StorageAppend] = deque()  # for the append thread
        self.applies: deque[tuple[Entry, ...]] = deque()  # for the apply thread

    def apply(self, entries: Sequence[Entry]) -> None:
        """Bring the state to the end of `entries`, membership changes included."""
        for entry in entries:
            membership = self.log.snapshot().membership
            if entry.type is not EntryType.NORMAL:
                membership = self.core.apply_change(entry.data)
            self.log.snapshots.append(Snapshot(entry.index, entry.term, membership))
