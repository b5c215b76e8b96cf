"""One node as a value: its real core is built from it, given one input, and turned back into a value.

Nodes are named relative to this one: 1 itself, 2 the next, 3 the one after (0 nobody). `Runner` may give the core other
names, in any order; the outcome is the same value, or the core treats some node as special.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from random import Random
from typing import NamedTuple

from zmqbroker.raft.config import RaftConfig
from zmqbroker.raft.core import RaftCore
from zmqbroker.raft.membership import Membership
from zmqbroker.raft.messages import Entry, HardState, Message, MessageType, Role, Snapshot, StorageAppend
from zmqbroker.raft.progress import ProgressState

__all__ = ["NEW", "Crash", "Mail", "Outcome", "Replica", "Runner", "Violation", "Work", "mirror"]

_MEMBERSHIP = Membership((1, 2, 3))
#: Read by nothing that is part of a state.
_RANDOM = Random(0)
_STORED = MessageType.STORAGE_APPEND_RESPONSE


class Violation(AssertionError):
    """An invariant is broken."""


class Mail(NamedTuple):
    """A message without its ends. `terms` are those of its entries, which begin after `index`."""

    type: MessageType
    term: int
    log_term: int = 0
    index: int = 0  # type: ignore[assignment]  # not tuple.index
    commit: int = 0
    reject_hint: int = 0
    reject: bool = False
    context: int = 0
    terms: tuple[int, ...] = ()

    def __repr__(self) -> str:
        said = [f"{name}={value}" for name, value in self._asdict().items() if name != "type" and value]
        return f"Mail(MessageType.{self.type.name}, {', '.join(said)})"


class Work(NamedTuple):
    """What one StorageAppend stores and releases; `vote` is (term, vote) where that changes."""

    vote: tuple[int, int] | None
    first: int
    terms: tuple[int, ...]
    answers: tuple[tuple[int, Mail], ...]  # to whom, what

    @property
    def records(self) -> int:
        """What is written one after the other, so that a crash may fall between."""
        return (self.vote is not None) + len(self.terms)


class Follower(NamedTuple):
    """A leader's progress of one node."""

    match_index: int
    next_index: int
    state: int
    held_back: bool
    sent_commit: int


class Replica(NamedTuple):
    """All that decides what a node does next."""

    term: int
    vote: int
    role: int
    leader: int
    votes: tuple[tuple[int, bool], ...]
    commit: int
    offset: int  # of the unstable entries
    in_progress: int
    unstable: tuple[int, ...]
    progress: tuple[Follower, ...]  # at a leader only: of 1, 2, 3
    durable: tuple[int, ...]
    stored: tuple[int, int]  # durable term and vote
    works: tuple[Work, ...]

    @property
    def log(self) -> tuple[int, ...]:
        """Terms of the whole log, durable or not."""
        return self.durable[: self.offset - 1] + self.unstable


NEW = Replica(0, 0, int(Role.FOLLOWER), 0, (), 0, 1, 1, (), (), (), (0, 0), ())


class Crash(NamedTuple):
    """Restart with this many records of the works under way, and with the commit index known or not."""

    records: int
    commit: bool


class Outcome(NamedTuple):
    """What an input made of a node, and what left it: to whom, what."""

    replica: Replica
    sent: tuple[tuple[int, Mail], ...]


def mirror(replica: Replica) -> Replica:
    """The same node where the next and the one after have changed places."""
    swap = (0, 1, 3, 2)

    def swapped(pair: tuple[int, int]) -> tuple[int, int]:
        return pair[0], swap[pair[1]]

    works = tuple(
        work._replace(
            vote=work.vote and swapped(work.vote), answers=tuple(sorted((swap[to], mail) for to, mail in work.answers))
        )
        for work in replica.works
    )
    progress = replica.progress
    return replica._replace(
        vote=swap[replica.vote],
        leader=swap[replica.leader],
        votes=tuple(sorted((swap[voter], granted) for voter, granted in replica.votes)),
        progress=(progress[0], progress[2], progress[1]) if progress else (),
        stored=swapped(replica.stored),
        works=works,
    )


@cache
def _entry(index: int, term: int) -> Entry:
    return Entry(index, term)


def _entries(first: int, terms: Sequence[int]) -> tuple[Entry, ...]:
    return tuple(_entry(first + n, term) for n, term in enumerate(terms))


class Disk:
    """A `LogView` of terms."""

    def __init__(self, terms: Sequence[int], hard_state: HardState) -> None:
        self.terms = list(terms)
        self.state = hard_state

    def hard_state(self) -> HardState:
        return self.state

    def first_index(self) -> int:
        return 1

    def last_index(self) -> int:
        return len(self.terms)

    def term(self, index: int) -> int:
        return self.terms[index - 1] if index else 0

    def entries(self, low: int, high: int, size_max: int) -> tuple[Entry, ...]:
        return _entries(low, self.terms[low - 1 : high - 1])

    def snapshot(self) -> Snapshot | None:
        return None

    def write(self, work: Work, records: int, names: Sequence[int]) -> None:
        """Store the first `records` records of `work`."""
        if work.vote is not None and records:
            self.state = HardState(work.vote[0], names[work.vote[1]])
            records -= 1
        for position, term in enumerate(work.terms[:records]):
            del self.terms[work.first + position - 1 :]
            self.terms.append(term)


class Runner:
    """Runs the real core; `names[0]` is this node's id, `names[1]` that of the next, `names[2]` that of the one after."""

    def __init__(self, *, pre_vote: bool = False, names: tuple[int, int, int] = (1, 2, 3)) -> None:
        self._names = (0, *names)
        self._relative = {0: 0, **{name: position for position, name in enumerate(names, start=1)}}
        self._config = RaftConfig(id=names[0], group=1, pre_vote=pre_vote, check_quorum=False, commit_at_tick=False)

    # --- inputs ----------------------------------------------------------------------------------------------------

    def campaign(self, replica: Replica) -> Outcome:
        """Its election timeout has passed."""
        core, disk = self._thaw(replica)
        core.campaign()
        return self._freeze(core, disk, replica.works)

    def heartbeat(self, replica: Replica) -> Outcome:
        """A heartbeat is due."""
        core, disk = self._thaw(replica)
        core.tick()
        return self._freeze(core, disk, replica.works)

    def propose(self, replica: Replica) -> Outcome:
        """A client wants something."""
        core, disk = self._thaw(replica)
        core.propose(b"")
        return self._freeze(core, disk, replica.works)

    def deliver(self, replica: Replica, sender: int, mail: Mail) -> Outcome:
        """A message arrives."""
        core, disk = self._thaw(replica)
        reason = core.step(self._message(mail, sender=sender, to=1))
        if reason is not None:
            raise Violation(f"a correct node's message is not believed: {reason}")
        return self._freeze(core, disk, replica.works)

    def complete(self, replica: Replica) -> Outcome:
        """The disk has done the oldest work."""
        core, disk = self._thaw(replica)
        disk.write(replica.works[0], replica.works[0].records, self._names)
        sent = core.advance(core._works[0])
        return self._freeze(core, disk, replica.works[1:], sent)

    def crash(self, replica: Replica, crash: Crash) -> Outcome:
        """All but what is durable is gone, and the node starts again."""
        disk = self._disk(replica)
        left = crash.records
        for work in replica.works:
            disk.write(work, min(left, work.records), self._names)
            left = max(0, left - work.records)
        commit = 0
        if crash.commit:
            log = replica.log[: replica.commit]
            while commit < min(len(log), len(disk.terms)) and log[commit] == disk.terms[commit]:
                commit += 1
        core = RaftCore(self._config, _MEMBERSHIP, disk, _RANDOM, applied_index=commit)
        return self._freeze(core, disk, ())

    # --- values to objects and back --------------------------------------------------------------------------------

    def _message(self, mail: Mail, *, sender: int, to: int) -> Message:
        kind, term, log_term, index, commit, reject_hint, reject, context, terms = mail
        ends = (self._names[to], self._names[sender])
        entries = _entries(index + 1, terms)
        return Message(kind, *ends, 1, term, log_term, index, commit, reject_hint, reject, context=context, entries=entries)

    @staticmethod
    def mail_of(message: Message) -> Mail:
        """A message without its ends."""
        return Mail(
            message.type,
            message.term,
            message.log_term,
            message.index,
            message.commit,
            message.reject_hint,
            message.reject,
            message.context,
            tuple(entry.term for entry in message.entries),
        )

    def _mail(self, message: Message) -> tuple[int, Mail]:
        return self._relative[message.to], self.mail_of(message)

    def _disk(self, replica: Replica) -> Disk:
        term, vote = replica.stored
        return Disk(replica.durable, HardState(term, self._names[vote]))

    def _thaw(self, replica: Replica) -> tuple[RaftCore, Disk]:
        names, disk = self._names, self._disk(replica)
        core = RaftCore(self._config, _MEMBERSHIP, disk, _RANDOM, min(replica.commit, replica.offset - 1))
        state = core._state
        state.term, state.vote, state.leader = replica.term, names[replica.vote], names[replica.leader]
        state.role = Role(replica.role)
        state.votes = {names[voter]: granted for voter, granted in replica.votes}
        log, unstable = state.log, state.log.unstable
        log.commit_index = replica.commit
        unstable.entries = list(_entries(replica.offset, replica.unstable))
        unstable.offset, unstable.in_progress = replica.offset, replica.in_progress
        for name, follower in zip(names[1:], replica.progress, strict=False):
            progress = state.progress[name]
            progress.match_index, progress.next_index = follower.match_index, follower.next_index
            progress.state, progress._held_back = ProgressState(follower.state), follower.held_back
            progress.sent_commit = follower.sent_commit
        core._previous_hard_state, core._previous_soft_state = state.hard_state, state.soft_state
        core._works.extend(self._storage_append(work) for work in replica.works)
        return core, disk

    def _storage_append(self, work: Work) -> StorageAppend:
        answers = [self._message(mail, sender=1, to=to) for to, mail in work.answers]
        vote = work.vote and HardState(work.vote[0], self._names[work.vote[1]])
        return StorageAppend(1, _entries(work.first, work.terms), vote, True, answers)

    def _freeze(self, core: RaftCore, disk: Disk, works: tuple[Work, ...], sent: Sequence[Message] = ()) -> Outcome:
        sent = list(sent)
        relative, stored = self._relative, disk.state
        durable_vote = (stored.term, relative[stored.vote])
        while core.has_ready():
            ready = core.ready()
            sent += ready.messages
            if ready.append is not None:
                works = self._queue(works, ready.append, durable_vote)
            if ready.committed:
                core.applied_to(ready.committed[-1].index)
        state, unstable = core._state, core._state.log.unstable
        assert state.log.applied_index == min(state.log.commit_index, state.log.stable_index)
        replica = Replica(
            state.term,
            relative[state.vote],
            int(state.role),
            relative[state.leader],
            tuple(sorted((relative[voter], granted) for voter, granted in state.votes.items())),
            state.log.commit_index,
            unstable.offset,
            unstable.in_progress,
            tuple(entry.term for entry in unstable.entries),
            self._followers(core),
            tuple(disk.terms),
            durable_vote,
            works,
        )
        return Outcome(replica, tuple(self._mail(message) for message in sent))

    def _followers(self, core: RaftCore) -> tuple[Follower, ...]:
        state = core._state
        if state.role is not Role.LEADER:
            return ()  # reset by whoever becomes leader
        members = [state.progress[name] for name in self._names[1:]]
        return tuple(Follower(p.match_index, p.next_index, int(p.state), p._held_back, p.sent_commit) for p in members)

    def _queue(self, works: tuple[Work, ...], append: StorageAppend, durable_vote: tuple[int, int]) -> tuple[Work, ...]:
        """Put a work behind the others, unless it is as good as done."""
        before = next((work.vote for work in reversed(works) if work.vote), durable_vote)
        hard_state = append.hard_state
        vote = (hard_state.term, self._relative[hard_state.vote]) if hard_state is not None else before
        answers = tuple(sorted(self._mail(message) for message in append.responses))
        first = append.entries[0].index if append.entries else 0
        work = Work(vote if vote != before else None, first, tuple(entry.term for entry in append.entries), answers)
        news = set(answers) - {answer for answer in (works[-1].answers if works else ()) if answer[1].type == _STORED}
        return works if not news and not work.records else (*works, work)
