"""The promises of Raft (I1 to I12, I14, I18, I19), checked while a cluster runs: with every message, write and change of role.

The watcher keeps what an omniscient observer would know: who led which term, who voted for whom, what is durable where, which
entry was committed at which index. Each check costs what changed since the last one. Everything is keyed by Raft ids, which are
never used twice: a wiped machine comes back under another id, and what the old one had acknowledged stays on record.
Source: the shared reference on Raft, §6.6.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NoReturn

from tests.simulation.failure import Violation
from tests.simulation.ghost_log import DurableLog
from tests.simulation.world import World
from zmqbroker.raft import RaftCore
from zmqbroker.raft.messages import Entry, EntryType, Membership, Message, MessageType, Role, StorageAppend
from zmqbroker.raft.progress import Progress
from zmqbroker.raft.state import RaftState
from zmqbroker.raft.view import LogView

__all__ = ["NodeWatch", "RaftWatch", "quorum"]


def quorum(membership: Membership, members: Iterable[int]) -> bool:
    """True when `members` hold a majority of every set of voters. Counted here anew: the product's own count is on trial."""
    present = set(members)
    groups = [membership.voters, membership.voters_outgoing] if membership.voters_outgoing else [membership.voters]
    return all(2 * len(present.intersection(group)) > len(group) for group in groups)


class NodeWatch:
    """What is known of one node."""

    __slots__ = ("_core", "change_indexes", "commit_index", "durable", "id", "membership", "role", "state", "term")

    def __init__(self, node: int) -> None:
        self.id = node
        self.durable = DurableLog()
        self.role = Role.FOLLOWER
        self.term = 0
        self.commit_index = 0
        self.membership = Membership()
        self.change_indexes: list[int] = []  # of the membership changes in its log, ascending

    def started(self, core: RaftCore) -> None:
        """A process runs with this core."""
        self._core = core
        self.state: RaftState = core._state
        self.role, self.term, self.commit_index = Role.FOLLOWER, core.term, core.commit_index
        self.membership = core.membership


class RaftWatch:
    """Everything that is known of the cluster."""

    def __init__(self, world: World, command: str) -> None:
        self._world = world
        self._command = command
        self.nodes: dict[int, NodeWatch] = {}
        self.leaders: dict[int, int] = {}  # term -> who led it
        self.votes: dict[tuple[int, int], int] = {}  # (voter, term) -> for whom
        self.entries: dict[tuple[int, int], tuple[bytes, int, EntryType]] = {}  # (index, term) -> payload, term before, kind
        self.committed: list[int] = [0]  # by index: term of the committed entry
        self.committed_in: list[tuple[int, int]] = []  # (term of the committing leader, highest index), ascending
        self.configurations: list[tuple[int, Membership]] = []  # (index, membership from there on), ascending
        self.checks = 0
        self.on_commit: Callable[[int], None] | None = None

    def fail(self, invariant: str, text: str, node: int = 0) -> NoReturn:
        """Raise the violation."""
        world = self._world
        raise Violation(invariant, text, node=node, time_ns=world.now_ns, seed=world.seed, command=self._command)

    @property
    def commit_index(self) -> int:
        """The highest index that is committed."""
        return len(self.committed) - 1

    @property
    def membership(self) -> Membership:
        """The newest membership that anybody has applied."""
        return self.configurations[-1][1]

    def watch(self, node: int) -> NodeWatch:
        """What is known of a node, from its first start on."""
        return self.nodes.setdefault(node, NodeWatch(node))

    # --- starts (I9, I21) ----------------------------------------------------------------------------------------------

    def recovered(self, node: int, view: LogView, *, whole: bool) -> None:
        """A start has found this log: it must be what was synced, and at most what was written."""
        watch = self.watch(node)
        fault = watch.durable.recover(view, whole=whole)
        if fault:
            self.fail("I9", f"{fault}", node)
        low = max(view.first_index(), watch.durable.base + 1)
        entries = view.entries(low, view.last_index() + 1, 1 << 30) if low <= view.last_index() else ()
        for entry in entries:
            known = self.entries.get((entry.index, entry.term))
            if known is None or (known[0], known[2]) != (entry.data, entry.type):
                self.fail("I21", f"entry {entry.index} of term {entry.term} came back from the disk as another", node)
        watch.change_indexes = [entry.index for entry in entries if entry.type is not EntryType.NORMAL]

    def read(self, node: int, index: int, term: int, data: bytes) -> None:
        """A node has taken an entry from its log: to send it, to apply it, or to give its messages to a consumer (I14)."""
        known = self.entries.get((index, term))
        if known is not None and known[0] != data:
            self.fail("I14", f"entry {index} of term {term} was read as another than was written", node)

    # --- the log (I3, I11) ---------------------------------------------------------------------------------------------

    def appended(self, watch: NodeWatch, work: StorageAppend) -> None:
        """A core wants this made durable: equal index and term means equal entry and equal past."""
        if work.snapshot is not None:
            watch.change_indexes.clear()
        entries = work.entries
        if not entries:
            return
        before = watch.state.log.term_or_none(entries[0].index - 1)
        while watch.change_indexes and watch.change_indexes[-1] >= entries[0].index:
            watch.change_indexes.pop()
        for entry in entries:
            self._appended_one(watch, entry, before)
            before = entry.term

    def _appended_one(self, watch: NodeWatch, entry: Entry, before: int | None) -> None:
        key = (entry.index, entry.term)
        known = self.entries.get(key)
        if known is None:
            if before is not None:
                self.entries[key] = (entry.data, before, entry.type)
        elif known[0] != entry.data or known[2] is not entry.type or (before is not None and known[1] != before):
            self.fail("I3", f"entry {entry.index} of term {entry.term} differs from the one another node has", watch.id)
        if entry.type is not EntryType.NORMAL:
            log = watch.state.log
            if watch.state.role is Role.LEADER and entry.term == watch.state.term:
                open_changes = [index for index in watch.change_indexes if index > log.applied_index]
                if open_changes:
                    self.fail("I11", f"change {entry.index} follows {open_changes}, which are not applied", watch.id)
            watch.change_indexes.append(entry.index)

    # --- promises (I2, I19) --------------------------------------------------------------------------------------------

    def sent(self, watch: NodeWatch, message: Message) -> None:
        """A message leaves a node: what it promises must be durable."""
        kind, durable = message.type, watch.durable
        if kind is MessageType.APPEND_ENTRIES_RESPONSE:
            if durable.term < message.term:
                self.fail("I19", f"{message} shows a term that is not durable (durable: {durable.term})", watch.id)
            # Works of several terms may become durable at once: an answer of an earlier one was true when that was.
            earlier = message.term < durable.term
            last_index = durable.reached.get(message.term, 0) if earlier else durable.last_index
            if not message.reject and message.index > last_index:
                self.fail("I19", f"{message} acknowledges beyond durable index {last_index}", watch.id)
        elif kind is MessageType.REQUEST_VOTE_RESPONSE:
            if durable.term < message.term:
                self.fail("I19", f"{message} shows a term that is not durable (durable: {durable.term})", watch.id)
            if not message.reject:
                self._voted(watch, message.term, message.to)

    def _voted(self, watch: NodeWatch, term: int, candidate: int) -> None:
        durable = watch.durable
        # Requests of several terms may come at once, and the votes leave when the last term is durable: no other candidate can
        # get one of the earlier terms any more.
        passed = term < durable.term and term not in durable.votes
        if durable.votes.get(term) != candidate and not passed:
            self.fail("I2", f"vote for {candidate} in term {term} left before it was durable", watch.id)
        if self.votes.setdefault((watch.id, term), candidate) != candidate:
            self.fail("I2", f"voted for {self.votes[watch.id, term]} and {candidate} in term {term}", watch.id)

    # --- roles and commits ---------------------------------------------------------------------------------------------

    def observe(self, watch: NodeWatch) -> None:
        """Something happened at a node: look at what may have changed."""
        state = watch.state
        role, term, commit_index = state.role, state.term, state.log.commit_index
        if role is not watch.role or term != watch.term:
            if term < watch.term:
                self.fail("I9", f"term went from {watch.term} back to {term}", watch.id)
            if role is Role.LEADER and (watch.role is not Role.LEADER or term != watch.term):
                self._elected(watch, term)
            watch.role, watch.term = role, term
        if commit_index != watch.commit_index:
            if commit_index < watch.commit_index:
                self.fail("I6", f"commit index went from {watch.commit_index} back to {commit_index}", watch.id)
            watch.commit_index = commit_index
            if commit_index >= len(self.committed):
                self._committed(watch, commit_index)

    def _elected(self, watch: NodeWatch, term: int) -> None:
        node = watch.id
        if self.leaders.setdefault(term, node) != node:
            self.fail("I1", f"term {term} has leaders {self.leaders[term]} and {node}", node)
        self._voted(watch, term, node)
        membership = watch.state.membership
        voters = [voter for voter in membership.all_voters if self.votes.get((voter, term)) == node]
        if not quorum(membership, voters):
            self.fail("I12", f"leads term {term} of {membership} by the votes of {voters} only", node)
        for committed_term, index in reversed(self.committed_in):
            if committed_term < term:
                self._must_hold(watch, index)
                break

    def _must_hold(self, watch: NodeWatch, index: int) -> None:
        log = watch.state.log
        found = log.term_or_none(index)
        if found is None and index < log.first_index:
            return
        if found != self.committed[index]:
            text = f"leads term {watch.state.term} without entry {index} of term {self.committed[index]}, which is committed"
            self.fail("I4", f"{text} (it has term {found})", watch.id)

    def _committed(self, watch: NodeWatch, index: int) -> None:
        """A commit index that no node had before."""
        state, node = watch.state, watch.id
        term = state.log.term_or_none(index)
        if state.role is not Role.LEADER:
            self.fail("I6", f"is the first to commit {index} and does not lead", node)
        if term != state.term:
            self.fail("I10", f"committed {index} of term {term} by counting, in term {state.term}", node)
        assert term is not None
        for committed_index in range(len(self.committed), index + 1):
            committed_term = state.log.term_or_none(committed_index)
            assert committed_term is not None, "a leader holds what it commits"
            self.committed.append(committed_term)
        holders = [voter for voter in state.membership.all_voters if self.nodes[voter].durable.holds(index, term)]
        if not quorum(state.membership, holders):
            self.fail("I6", f"committed {index} of term {term}, durable on {holders} only of {state.membership}", node)
        if self.committed_in and self.committed_in[-1][0] == term:
            self.committed_in[-1] = (term, index)
        else:
            self.committed_in.append((term, index))
        for other in self.nodes.values():
            if other.role is Role.LEADER and other.term > term:
                self._must_hold(other, index)

    def membership_applied(self, watch: NodeWatch, index: int, membership: Membership) -> None:
        """An entry or a snapshot was applied at a node: equal indexes have equal memberships, neighbours share majorities."""
        if membership is watch.membership:
            return
        watch.membership = membership
        newest, last = self.configurations[-1]
        if index <= newest:
            known = [configuration for at, configuration in self.configurations if at <= index][-1]
            if known != membership:
                self.fail("I11", f"membership after {index} is {membership}, elsewhere {known}", watch.id)
            return
        if membership == last:
            return
        if not intersect(last, membership):
            self.fail("I11", f"membership {membership} after {index} shares not every majority with {last}", watch.id)
        self.configurations.append((index, membership))

    # --- a leader's view of the others (I7, I8, I20) -------------------------------------------------------------------

    def leader_heard(self, watch: NodeWatch, member: int) -> None:
        """A leader has dealt with an answer of `member`, which may be itself."""
        state = watch.state
        if state.role is not Role.LEADER:
            return
        progress = state.progress.get(member)
        if progress is None:
            return
        self._check_progress(watch, member, progress)
        match_index = progress.match_index
        if not match_index:
            return
        durable = self.nodes[member].durable
        if durable.term > state.term:
            return  # it has moved on, and may have cut what it had acknowledged to this leader
        term = state.log.term_or_none(match_index)
        if match_index > durable.last_index or (term is not None and not durable.holds(match_index, term)):
            text = f"believes that {member} holds {match_index} of term {term}; durable there is {durable.last_index}"
            self.fail("I7", f"{text} of term {durable.term_at(match_index)}", watch.id)

    def _check_progress(self, watch: NodeWatch, member: int, progress: Progress) -> None:
        inflights, last_index = progress.inflights, watch.state.log.last_index
        if not progress.match_index < progress.next_index <= last_index + 1:
            text = f"progress of {member}: match {progress.match_index}, next {progress.next_index}, last {last_index}"
            self.fail("I8", text, watch.id)
        sizes = sum(size for _, size in inflights._messages)
        config = watch.state.config
        if sizes != inflights.bytes or inflights.count > config.inflight_messages_max:
            self.fail(
                "I8", f"inflights of {member}: {inflights.count} messages, {sizes} bytes, not {inflights.bytes}", watch.id
            )

    def bounds(self, watch: NodeWatch, payload_max: int) -> None:
        """What waits in a core is bounded."""
        state = watch.state
        if state.uncommitted_bytes > state.config.uncommitted_bytes_max + payload_max:
            self.fail("I20", f"{state.uncommitted_bytes} bytes are uncommitted", watch.id)
        waiting = len(state.reads._reads) + len(state.reads._early)
        if waiting > state.config.reads_max:
            self.fail("I20", f"{waiting} reads wait, allowed are {state.config.reads_max}", watch.id)


def intersect(older: Membership, newer: Membership) -> bool:
    """True when every quorum of one shares a voter with every quorum of the other."""
    # A quorum of the older that avoids as many as it can: it is enough to look at every smallest one.
    voters = sorted({*older.all_voters, *newer.all_voters})
    for chosen in range(1 << len(voters)):
        members = [voter for bit, voter in enumerate(voters) if chosen >> bit & 1]
        if quorum(older, members) and quorum(newer, [voter for voter in voters if voter not in members]):
            return False
    return True
