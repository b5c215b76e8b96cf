"""One Raft group on one node: its core, its state machine, and the requests that wait for them.

Commands of a pass are gathered into one entry and proposed together. Waiting requests are keyed by the index and term of their
entry; they are answered when that entry is applied here, or refused when this node stops leading. What the machine wants
delivered is done by the leader alone. No sockets and no files: the `Host` sends, stores and reads.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, Protocol

from zmqbroker.broker import Applied, Machine
from zmqbroker.commands import Close, Delivery, ReceiveKey, Result, Tick, Trim, Waiting
from zmqbroker.errors import Busy, InvalidRequest, NotLeader, RequestError
from zmqbroker.raft import RaftCore
from zmqbroker.raft.confchange import ConfChange, InvalidChange
from zmqbroker.raft.messages import DropReason, Entry, EntryType, Message, MessageType, Role, SoftState, StorageAppend
from zmqbroker.server.clock import Clock, LeaderClock, median_unix_ns
from zmqbroker.server.membership import changed, hands_over, next_change
from zmqbroker.server.replies import result_reply
from zmqbroker.server.routes import Pending, Waiter
from zmqbroker.server.timeline import Timeline
from zmqbroker.server.trimming import Trimming
from zmqbroker.wire.entries import Addable, EntryBuilder, decode_entry
from zmqbroker.wire.frames import Reply

__all__ = ["Group", "Host"]

#: An entry is closed when it holds this much: large enough to make costs per entry vanish, small enough to keep a pass short.
ENTRY_BYTES = 1 << 20
#: Commands of one entry; the receipt's ordinal has 16 bits and its highest value is the machine's own.
ENTRY_COMMANDS_MAX = 16_384
#: Entries of this leader that may be under way while commands wait for company: what comes meanwhile shares the next entry, so
#: that entries grow with the load. An entry that is full does not wait.
ENTRIES_UNDER_WAY = 2
#: Ticks for which requests wait for the next leader to be known, when this node lost the last one: a handover takes a few
#: milliseconds, and an answer that names the leader spares the client a search.
PARKED_TICKS = 5


class Host(Protocol):
    """What a group needs of its node."""

    def reply(self, pending: Waiter, code: Reply, fields: dict[str, Any], frames: Iterable[bytes] = ()) -> None:
        """Answer a request."""
        ...

    def refuse(self, pending: Waiter, error: RequestError) -> None:
        """Answer a request with ERROR."""
        ...

    def deliver(self, pending: Pending, delivery: Delivery, group: int) -> None:
        """Answer a RECEIVE with its messages."""
        ...

    def not_leading(self, group: int, *, outcome_unknown: bool) -> RequestError:
        """NOT_LEADER with the leader's endpoint, or NO_MAJORITY."""
        ...

    def role_changed(self, group: int, soft_state: SoftState) -> None:
        """The group's leader or this node's role in it is another now."""
        ...

    def members_changed(self, group: int) -> None:
        """The group's roster is another now."""
        ...


class Group:
    """One group's core and machine, and the requests between them."""

    def __init__(
        self,
        number: int,
        core: RaftCore,
        machine: Machine,
        host: Host,
        confirm: str,
        clock: Clock,
        *,
        requests_max: int,
        trim_bytes: int,
    ) -> None:
        self.number = number
        self.core = core
        self.machine = machine
        self.soft_state = SoftState()
        self.clock = LeaderClock(clock, 0, 0)  # made anew with every leadership
        self._clock = clock
        self._walls: dict[int, int] = {}  # voter -> its wall clock less our monotonic one, in the term of _walls_term
        self._walls_term = 0
        self.receivers: dict[ReceiveKey, Pending] = {}  # RECEIVEs to be answered by a delivery; at most requests_max
        self._host, self._confirm, self._requests_max = host, confirm, requests_max
        self._builder = EntryBuilder()
        self._gathered: list[Waiter | None] = []  # who waits for which command of the entry being built
        self._waiting: dict[int, tuple[int, list[Waiter | None]]] = {}  # index -> term of the entry, who waits
        self._explains = False  # whether anybody who waits for the entry being built asks for its timeline
        self._timelines: dict[int, Timeline] = {}  # index -> of an entry in _waiting, where somebody asks
        self._committed: list[tuple[tuple[Entry, ...], int]] = []  # handed out and not applied; when they were, in ns
        self._waiting_count = 0  # requests in _waiting and _gathered but RECEIVEs; with receivers at most requests_max
        self.lost_majority = False  # True from stepping down because no majority answered until a leader is known
        self._led_term = 0  # term of the last leadership
        self.led_ticks = 0  # since that began
        self._parked: list[tuple[Waiter, bool]] = []  # refused as soon as the leader is known; True: outcome unknown
        self._parked_ticks = PARKED_TICKS  # since the leader was lost, at most PARKED_TICKS
        self._tick_index = 0  # index of the last entry proposed only to move the time on
        self._trimming = Trimming(trim_bytes)

    @property
    def leading(self) -> bool:
        """Whether this node leads the group."""
        return self.core.role == Role.LEADER

    # --- proposing ---------------------------------------------------------------------------------------------------

    def publish(self, batch: bytes, incarnation: int, pending: Waiter, expected_sequence: int | None = None) -> None:
        """Gather a batch frame that was checked already."""
        if self._admit(pending):
            self._builder.add_publish(batch, incarnation, expected_sequence)
            self._gather(pending)

    def submit(self, command: Addable, pending: Pending | None = None) -> None:
        """Gather any other command; without `pending` nobody waits for its result."""
        if pending is None or self._admit(pending):
            if pending is not None and pending.key is not None:
                self.receivers[pending.key] = pending
            self._builder.add(command)
            self._gather(pending)

    def _admit(self, pending: Waiter) -> bool:
        if self._waiting_count + len(self.receivers) + pending.count > self._requests_max:
            self._host.refuse(pending, Busy(f"{self._requests_max} requests are waiting already", retry_ms=20))
        elif self._is_full():  # which it only stays while leadership is being handed over
            self._host.refuse(pending, Busy(f"leadership is being handed to node {self.core.transferee}", retry_ms=20))
        else:
            return True
        return False

    def _is_full(self) -> bool:
        return self._builder.size_bytes >= ENTRY_BYTES or self._builder.count >= ENTRY_COMMANDS_MAX

    def _gather(self, pending: Waiter | None) -> None:
        self._gathered.append(pending)
        self._explains = self._explains or (pending is not None and pending.received_ns > 0)
        self._waiting_count += pending.count if pending is not None and pending.key is None else 0
        if self._is_full():
            self.propose()

    def propose(self) -> None:
        """Propose what was gathered as one entry, unless it is to wait for more, or for the outcome of a handover."""
        if not self._gathered or self.core.transferee:
            return
        if len(self._waiting) >= ENTRIES_UNDER_WAY and not self._is_full():
            return
        builder, gathered = self._builder, self._gathered
        explains, self._explains = self._explains, False
        self._builder, self._gathered = EntryBuilder(), []
        try:
            data = builder.build(self.clock.now_unix_ns())
            index = self.core.propose(data, builder.data_crc)
        except NotLeader:
            self._park(gathered, outcome_unknown=False)
            return
        except RequestError as error:
            self._refuse_all(gathered, error)
            return
        self._waiting[index] = (self.core.term, gathered)
        if explains:
            self._timelines[index] = Timeline(self._clock.monotonic_ns())

    def _refuse_all(self, waiters: Iterable[Waiter | None], error: RequestError) -> None:
        for pending in waiters:
            if pending is not None:
                self._forget(pending)
                self._host.refuse(pending, error)

    def change_members(self, change: ConfChange, pending: Pending | None = None) -> None:
        """Propose a membership change, one at a time; without `pending` nobody waits for it."""
        if pending is not None and not self._admit(pending):
            return
        try:
            index = self.core.propose_change(change)
        except (InvalidChange, RequestError) as error:
            if pending is not None:
                fault = error if isinstance(error, RequestError) else InvalidRequest(str(error))
                self._host.refuse(pending, fault)
            return
        self._waiting_count += pending is not None
        self._waiting[index] = (self.core.term, [pending])

    # --- time --------------------------------------------------------------------------------------------------------

    def tick(self, short: Collection[int] = ()) -> None:
        """One Raft tick; a leader also proposes what fell due. `short`: members that say that their disks are."""
        self.core.tick()
        trimmable = self._trimming.tick(self.core, short)
        self.led_ticks += 1
        self._parked_ticks = min(self._parked_ticks + 1, PARKED_TICKS)
        self._release()
        if not self.leading:
            return
        self._continue_change()
        due = self.machine.next_due_unix_ns()
        if due is not None and due <= self.clock.now_unix_ns() and self._tick_index <= self.machine.applied_index:
            self._tick_index = self.core.last_index + 1
            self.submit(Tick())
        if trimmable is not None:
            self.submit(Trim(trimmable))

    def _continue_change(self) -> None:
        """Go on with a change of the members that this or an earlier leader has begun."""
        plan = (self.machine.roster, self.core.id, self.core.last_index, self.core.progress())
        if change := next_change(*plan):
            self.change_members(change)
        elif not self.core.transferee and (to := hands_over(*plan)):
            self.core.transfer_leader(to)

    # --- what the core wants done --------------------------------------------------------------------------------------

    def step(self, message: Message) -> DropReason | None:
        """Give the core a message of another node; why it did nothing with it, if so."""
        reason = self.core.step(message)
        if reason is None and self.leading:
            self._trimming.heard(message.sender)
        if message.type is MessageType.REQUEST_VOTE_RESPONSE and not message.reject and reason is None:
            self._note_wall(message)
        return reason

    def advance(self, work: StorageAppend, written_ns: int = 0) -> list[Message]:
        """`work` is durable; the messages that may leave now that it is. A granted vote tells what time it is here.

        `written_ns` is when it was written and not yet synced, by the monotonic clock.
        """
        if self._timelines:
            self._note_log(work, written_ns)
        messages = self.core.advance(work)
        for message in messages:
            if message.type is MessageType.REQUEST_VOTE_RESPONSE and not message.reject:
                message.context = self._clock.wall_unix_ns()
        return messages

    def _note_log(self, work: StorageAppend, written_ns: int) -> None:
        for entry in work.entries:
            if timeline := self._timelines.get(entry.index):
                timeline.logged_ns = written_ns
                timeline.fsynced_ns = self._clock.monotonic_ns() if self._confirm == "quorum+fsync" else 0

    def _note_wall(self, vote: Message) -> None:
        if vote.term > self._walls_term:
            self._walls, self._walls_term = {}, vote.term
        if vote.term == self._walls_term:
            self._walls[vote.sender] = vote.context - self._clock.monotonic_ns()

    def collect(self, messages: list[Message], works: list[StorageAppend]) -> None:
        """Propose, and add what is to be sent and stored; what is committed waits for `apply`."""
        self.propose()
        while self.core.has_ready():
            ready = self.core.ready()
            if ready.soft_state is not None:
                self.apply()  # what was committed before is answered in the role that it had
                self._role(ready.soft_state)
            messages.extend(ready.messages)
            if ready.append is not None:
                works.append(ready.append)
            if ready.committed:
                self._committed.append((ready.committed, self._clock.monotonic_ns() if self._timelines else 0))

    def apply(self) -> bool:
        """Apply what is committed; whether there is anything to collect again because of that."""
        if not self._committed:
            return False
        committed, self._committed = self._committed, []
        for entries, quorum_ns in committed:
            for entry in entries:
                self._apply(entry, quorum_ns)
            self.core.applied_to(entries[-1].index)
        self.propose()
        return self.core.has_ready()

    def _role(self, soft_state: SoftState) -> None:
        was_leading, had_leader = self.soft_state.role == Role.LEADER, self.soft_state.leader != 0
        self.soft_state = soft_state
        if soft_state.role == Role.LEADER and not was_leading:
            self._led_term, self.led_ticks = self.core.term, 0
            self.clock = LeaderClock(self._clock, self.machine.now_unix_ns, self._quorum_unix_ns())
            self._tick_index = 0
            self._trimming.begin(self.machine.applied_index, self.machine.trimmed_index)
        # Only a leader that no majority answers steps down within its own term (CheckQuorum).
        self.lost_majority = soft_state.leader == 0 and (
            self.lost_majority or (was_leading and self.core.term == self._led_term)
        )
        self._host.role_changed(self.number, soft_state)
        if had_leader and not soft_state.leader:
            self._parked_ticks = 0
        if was_leading and soft_state.role != Role.LEADER:
            self._stop_leading()
        self._release()

    def _quorum_unix_ns(self) -> int:
        """The median wall clock of those who voted for this leader, and its own."""
        offsets = self._walls.values() if self._walls_term == self.core.term else ()
        now_ns = self._clock.monotonic_ns()
        return now_ns + median_unix_ns((self._clock.wall_unix_ns() - now_ns, *offsets))

    def _stop_leading(self) -> None:
        """Whoever waits must ask the next leader; what was proposed may still be committed there."""
        waiting, self._waiting = self._waiting, {}
        self._timelines.clear()
        for _, waiters in waiting.values():
            self._park(waiters, outcome_unknown=True)
        self._park(list(self.receivers.values()), outcome_unknown=True)

    def _park(self, waiters: Iterable[Waiter | None], *, outcome_unknown: bool) -> None:
        for pending in waiters:
            if pending is not None:
                self._forget(pending)
                self._parked.append((pending, outcome_unknown))

    def park(self, pending: Pending) -> bool:
        """Keep a request that this node cannot serve until the leader is known, if that may be soon; False if not."""
        if self.soft_state.leader or self._parked_ticks >= PARKED_TICKS or len(self._parked) >= self._requests_max:
            return False
        self._parked.append((pending, False))
        return True

    def _release(self) -> None:
        """Send the parked requests to the leader, or away when none has been found in time."""
        if not self._parked or not (self.soft_state.leader or self._parked_ticks >= PARKED_TICKS):
            return
        parked, self._parked = self._parked, []
        for pending, outcome_unknown in parked:
            self._host.refuse(pending, self._host.not_leading(self.number, outcome_unknown=outcome_unknown))

    def _apply(self, entry: Entry, quorum_ns: int) -> None:
        applied, results = self._change(entry) if entry.type is not EntryType.NORMAL else self._commands(entry)
        term, waiters = self._waiting.pop(entry.index, (0, []))
        timeline = self._timelines.pop(entry.index, None)
        if timeline is not None:
            timeline.quorum_ns, timeline.applied_ns = quorum_ns, self._clock.monotonic_ns()
        if waiters and term != entry.term:
            self._refuse_all(waiters, self._host.not_leading(self.number, outcome_unknown=False))
        elif waiters:
            for pending, result in zip(waiters, results, strict=True):
                if pending is not None:
                    self._answer(pending, result, timeline)
        if self.leading:
            self.clock.pass_by(self.machine.now_unix_ns)
            for delivery in applied.deliveries:
                self._deliver(delivery)
        self._trimming.applied(entry.index, len(entry.data), self.machine.trimmed_index)

    def _commands(self, entry: Entry) -> tuple[Applied, Sequence[Result]]:
        _, time_unix_ns, commands = decode_entry(entry.data) if entry.data else (0, 0, ())
        applied = self.machine.apply(entry.index, time_unix_ns, commands)
        return applied, applied.results

    def _change(self, entry: Entry) -> tuple[Applied, Sequence[Result]]:
        membership = self.core.apply_change(entry.data)
        roster = changed(self.machine.roster, entry.index, membership, entry.data)
        applied = self.machine.change_members(entry.index, roster)
        self._host.members_changed(self.number)
        return applied, (roster,)

    def install(self, machine: Machine) -> None:
        """A snapshot has replaced the state; nobody waits for what it contains, since this node follows."""
        self.machine = machine
        self._trimming.reset()
        self._host.members_changed(self.number)

    def _forget(self, pending: Waiter) -> None:
        """A request has its answer: there is room for another one."""
        if pending.key is None:
            self._waiting_count -= pending.count
        else:
            self.receivers.pop(pending.key, None)

    def _answer(self, pending: Waiter, result: Result, timeline: Timeline | None) -> None:
        if isinstance(result, Waiting):
            return
        self._forget(pending)
        if isinstance(result, RequestError):
            self._host.refuse(pending, result)
            return
        code, fields = result_reply(result, self._confirm)
        if timeline is not None and pending.received_ns:
            fields["explain"] = timeline.fields(pending.received_ns, self._clock.monotonic_ns())
        self._host.reply(pending, code, fields)

    def _deliver(self, delivery: Delivery) -> None:
        # Without a receiver the client asks again and gets the same messages.
        if (pending := self.receivers.pop(delivery.key, None)) is not None:
            self._host.deliver(pending, delivery, self.number)

    def end_receives(self, close: Close) -> None:
        """Answer the waiting RECEIVEs that are being closed: with nothing."""
        for key in [key for key in self.receivers if close.ends(key)]:
            pending = self.receivers.pop(key)
            self._host.reply(pending, Reply.MESSAGES, {"messages" if pending.plain else "pieces": []})
