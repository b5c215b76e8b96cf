"""The state machine of one group: committed entries in, results and deliveries out.

Deterministic: what `apply` does depends on the machine's version, its limits and the entries so far, on nothing else. Time is
the highest stamp seen. Effects are data; only a leader acts on them. It trusts what the node checked before it proposed (names,
batch columns, ranges of numbers), yet no decoded command makes it raise: a refusal is a `RequestError` as a result.

Receipts. A message is assigned at most once per `assigning` number, so that an old receipt never fits a newer assignment:
within one command everything that returns to ready does so before anything is assigned (Close), or nothing returns at all
(Publish, Receive); and what falls due at the start of an entry is collected first, so that a message which returns and is
assigned there cannot return again before the next entry. The start of an entry uses the ordinal 65,535, which no command
can have (docs/PROTOCOL.md §9 allows 65,535 commands, numbered from 0).

Source: DESIGN §6, docs/PROTOCOL.md §3, §4 and §9.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from zmqbroker.broker import snapshot
from zmqbroker.broker.audit import Audit, digest_of
from zmqbroker.broker.channels import Channels
from zmqbroker.broker.claims import Assignment
from zmqbroker.broker.limits import MachineLimits
from zmqbroker.broker.managing import make_room, manage
from zmqbroker.broker.moving import Served
from zmqbroker.broker.queue import Queue
from zmqbroker.broker.records import Moment, are_all_of
from zmqbroker.broker.settling import give_back, settle
from zmqbroker.commands import (
    RECEIPT_ORDINAL_BITS,
    Ack,
    Audited,
    BatchHeader,
    Close,
    Closed,
    Command,
    Delivery,
    Extend,
    Nack,
    OpenProducer,
    ProducerOpened,
    Publish,
    Published,
    QueueStats,
    Receive,
    Reject,
    Requeue,
    Result,
    Roster,
    TakeAudit,
    Tick,
    Trim,
    Waiting,
)
from zmqbroker.errors import Busy, Corruption, InvalidRequest

__all__ = ["Applied", "Machine"]

#: Ordinal of what happens before the first command of an entry; also the number of commands that an entry may have.
ORDINAL_DUE = (1 << RECEIPT_ORDINAL_BITS) - 1


@dataclass(slots=True, frozen=True)
class Applied:
    """What one entry did: a result per command, in order, and answers to receives, oldest first."""

    results: list[Result]
    deliveries: list[Delivery]


class Machine:
    """All channels of one group."""

    VERSION = 2  # raised with every change of what an entry does or how state is stored

    def __init__(self, limits: MachineLimits | None = None) -> None:
        self._channels = Channels(MachineLimits() if limits is None else limits)
        self._claims, self._agenda = self._channels.claims, self._channels.agenda
        self._applied_index = 0
        self._now_unix_ns = 0
        self._trimmed_index = 0
        self._stored_meta: bytes | None = None
        self._numbers_end = 1  # channel numbers of the state that is being restored are below it
        self.audit: Audit | None = None  # the last one; no part of the state
        self._audit_due = False
        self._roster = Roster()
        self._stored_roster: bytes | None = None

    # --- applying -----------------------------------------------------------------------------------------------------

    def apply(self, index: int, time_unix_ns: int, commands: Sequence[Command]) -> Applied:
        """Apply one committed entry; an empty one (of a new leader) only moves index and time.

        Indexes rise; the caller applies each entry once. After a crash it starts again from the stored `applied_index`.
        """
        assert index > self._applied_index
        assert len(commands) <= ORDINAL_DUE
        self._applied_index = index
        self._now_unix_ns = max(self._now_unix_ns, time_unix_ns)
        base = index << RECEIPT_ORDINAL_BITS
        deliveries: list[Delivery] = []
        self._fall_due(base | ORDINAL_DUE, deliveries)
        results = [
            self._dispatch(command, Moment(base | ordinal, self._now_unix_ns), deliveries)
            for ordinal, command in enumerate(commands)
        ]
        if self._audit_due:  # when the whole entry is applied
            self._audit_due, self.audit = False, Audit.of(index, self.items())
        return Applied(results, deliveries)

    def found(self, roster: Roster) -> None:
        """Begin with the members that formed the cluster; before the first entry, and with the same ones on every node."""
        assert not self._roster.membership
        self._roster = roster

    def change_members(self, index: int, roster: Roster) -> Applied:
        """Apply an entry that changed who takes part."""
        self._roster = roster
        return self.apply(index, 0, ())

    def _fall_due(self, assigning: int, deliveries: list[Delivery]) -> None:
        claims, numbers = self._claims.take_due(self._now_unix_ns), self._agenda.due(self._now_unix_ns)
        if not claims and not numbers:  # as a rule
            return
        moment = Moment(assigning, self._now_unix_ns)
        for number in numbers:
            queue = self._channels.touch(number)
            queue.fall_due(moment.now_unix_ns)
            deliveries += queue.serve(moment)
        for claim in claims:
            if isinstance(claim, Assignment):
                served = Served()
                give_back(self._channels, claim, moment, served)
                deliveries += served.deliver(moment)
            elif claim in self._claims:  # else what fell due before it has served it
                deliveries.append(self._channels.touch(claim.number).end_wait(claim, moment))

    def _dispatch(self, command: Command, moment: Moment, deliveries: list[Delivery]) -> Result:
        if isinstance(command, Publish):
            return self._publish(command, moment, deliveries)
        if isinstance(command, Receive):
            return self._receive(command, moment, deliveries)
        if isinstance(command, Ack):
            return self._ack(command, moment, deliveries)
        if isinstance(command, OpenProducer):
            return self._open_producer(command, moment)
        if isinstance(command, Close):
            return self._close(command, moment, deliveries)
        if isinstance(command, TakeAudit):
            self._audit_due = True
            return Audited(moment.entry_index)
        if isinstance(command, Trim):
            self._trimmed_index = max(self._trimmed_index, command.index)
        elif isinstance(command, Nack | Reject | Requeue | Extend):
            return settle(self._channels, command, moment, deliveries)
        elif not isinstance(command, Tick):
            return manage(self._channels, command, moment, deliveries)
        return None

    def _publish(self, command: Publish, moment: Moment, deliveries: list[Delivery]) -> Result:
        header = command.header
        if header.count < 1:
            return InvalidRequest(f"a batch has at least 1 message, this one {header.count}")
        if command.runs and not are_all_of(command.runs, header.count):
            return InvalidRequest(f"the columns do not say something of each of the batch's {header.count} messages once")
        queue = self._channels.find_or_create(header.channel, command.incarnation, moment)
        if not isinstance(queue, Queue):
            return queue
        if header.producer:
            answer = queue.producers.check(header)
            if answer is not None:
                return answer
        others, settings = None, queue.settings
        if settings.max_messages or settings.max_bytes:
            others = Served()
            full = make_room(self._channels, queue, command, moment, others)
            if full is not None:
                return full
        first = queue.publish(command, moment)
        if header.producer:
            queue.producers.record(header, first, moment.now_unix_ns)
        deliveries += queue.serve(moment)
        if others is not None:  # got what made room
            deliveries += others.deliver(moment)
        return Published(first, header.count, False, moment.now_unix_ns)

    def _receive(self, command: Receive, moment: Moment, deliveries: list[Delivery]) -> Result:
        queue = self._channels.find_or_create(command.channel, command.incarnation, moment)
        if not isinstance(queue, Queue):
            return queue
        answer = queue.receive(command, moment)
        if isinstance(answer, Busy):
            return answer
        if answer is not None:
            deliveries.append(answer)
        return Waiting()

    def _ack(self, command: Ack, moment: Moment, deliveries: list[Delivery]) -> Result:
        queue = self._channels.find(command.channel)
        if not isinstance(queue, Queue):
            return queue
        result = queue.ack(command.session, command.receipts)
        if queue.settings.max_in_flight:  # others may be given as many now
            deliveries += queue.serve(moment)
        return result

    def _open_producer(self, command: OpenProducer, moment: Moment) -> Result:
        if command.producer < 1:
            return InvalidRequest(f"a producer is a number from 1, not {command.producer}")
        queue = self._channels.find_or_create(command.channel, command.incarnation, moment)
        return ProducerOpened(queue.producers.open(command.producer)) if isinstance(queue, Queue) else queue

    def _close(self, command: Close, moment: Moment, deliveries: list[Delivery]) -> Closed:
        for waiter in self._claims.waiters(command.session):
            if command.consumer in (None, waiter.key.consumer):
                self._channels.touch(waiter.number).drop_waiter(waiter)
        served = Served()  # everything returns before anything is assigned again: see "Receipts" above
        returned = sum(
            give_back(self._channels, assignment, moment, served)
            for assignment in self._claims.assignments(command.session)
            if command.consumer in (None, assignment.key.consumer)
        )
        deliveries += served.deliver(moment)
        return Closed(returned)

    # --- what the node asks -------------------------------------------------------------------------------------------

    @property
    def applied_index(self) -> int:
        """Index of the last applied entry."""
        return self._applied_index

    @property
    def roster(self) -> Roster:
        """Who takes part, as of `applied_index`."""
        return self._roster

    @property
    def now_unix_ns(self) -> int:
        """The highest time stamp of any applied entry; no new stamp counts that is lower."""
        return self._now_unix_ns

    @property
    def trimmed_index(self) -> int:
        """Every voter holds the log up to this index, as the last `Trim` said."""
        return self._trimmed_index

    def next_due_unix_ns(self) -> int | None:
        """The next instant at which something falls due, with the first entry whose stamp reaches it."""
        claim, channel = self._claims.earliest(), self._agenda.earliest()
        return min(claim, channel) if claim is not None and channel is not None else claim if channel is None else channel

    def lowest_live_index(self, after: int = 0) -> int | None:
        """The lowest entry above `after` that still holds a live message; all bodies between are finished."""
        return self._channels.entries.lowest(after)

    def live_indexes(self, after: int = 0) -> Iterator[int]:
        """The entries above `after` that hold a live message, ascending; to be used before the next `apply`."""
        return self._channels.entries.above(after)

    def is_live(self, index: int) -> bool:
        """True when the entry at `index` still holds a live message."""
        return index in self._channels.entries

    def lose(self, is_lost: Callable[[int], bool]) -> int:
        """Finish the messages whose entries are lost with their bodies; returns how many there were.

        No entry says so, so this is for a node that is alone, and before it goes on.
        """
        return sum(self._channels.touch(queue.number).lose(is_lost) for queue in self._channels)

    def sessions(self) -> Iterator[bytes]:
        """The sessions that wait or hold messages, in no promised order; ask again after the next `apply`."""
        return self._claims.sessions()

    def holds(self, session: bytes) -> bool:
        """True when the session waits or holds messages: it must be closed when it ends."""
        return self._claims.holds(session)

    def waits(self, session: bytes) -> bool:
        """True when a receive of the session waits: the session does not expire."""
        return bool(self._claims.waiters(session))

    def channels(self) -> list[str]:
        """The names of all channels, sorted."""
        return self._channels.names()

    def page(self, search: str, after: str, count_max: int) -> tuple[list[str], str | None]:
        """The names of some channels, sorted, and the one to go on behind (`Channels.page`)."""
        return self._channels.page(search, after, count_max)

    def stored(self, header: BatchHeader) -> Published | None:
        """The result of an earlier attempt to send this batch, if it is kept: what `apply` would answer. Changes nothing."""
        queue = self._channels.named(header.channel)
        return queue.producers.stored(header) if queue is not None else None

    def stats(self, channel: str) -> QueueStats | None:
        """The counters of a channel, None when nobody has used it."""
        queue = self._channels.named(channel)
        return None if queue is None else queue.stats()

    def channel(self, name: str) -> Queue | None:
        """A channel, to be looked at only; None when there is none."""
        return self._channels.named(name)

    # --- storing ------------------------------------------------------------------------------------------------------

    def changes(self) -> list[tuple[bytes, bytes | None]]:
        """The keys that changed since the last call, ascending, with their values (None: deleted).

        They belong to `applied_index` as it is now; the caller stores both or stops. Costs what changed, not what there is.
        """
        changed: list[tuple[bytes, bytes | None]] = []
        meta = self._meta()
        if meta != self._stored_meta:
            self._stored_meta = meta
            changed.append((snapshot.META_KEY, meta))
        roster = snapshot.write_roster(self._roster)
        if roster != self._stored_roster:
            self._stored_roster = roster
            changed.append((snapshot.ROSTER_KEY, roster))
        for queue in self._channels.take_touched():
            changed += snapshot.queue_changes(queue)
        changed.sort()
        return changed

    def items(self) -> list[tuple[bytes, bytes]]:
        """Everything that a store would hold if all changes were in it, ascending: the canonical form of the state."""
        found = [(snapshot.META_KEY, self._meta()), (snapshot.ROSTER_KEY, snapshot.write_roster(self._roster))]
        for queue in self._channels:
            found += snapshot.queue_items(queue)
        found.sort()
        return found

    def describe(self, key: bytes) -> str:
        """What a key of the state is of, in words. Raises `Corruption` for what is no key."""
        number, what = snapshot.describe(key)
        if not number:
            return what
        queue = self._channels.numbered(number)
        name = "unknown" if queue is None else repr(queue.name)
        return f"{what} of channel {name}" if what else f"channel {name}"

    def digest(self) -> bytes:
        """SHA-256 of `applied_index` and `items`: equal on all replicas at an equal index."""
        return digest_of(self._applied_index, self.items())

    @classmethod
    def restore(cls, applied_index: int, items: Iterable[tuple[bytes, bytes]], limits: MachineLimits | None = None) -> Machine:
        """The machine whose changes, all of them up to `applied_index`, made the store hold `items`.

        `items` come in the order of their keys. Raises `Corruption` when they cannot be such a store.
        """
        machine = cls(limits)
        machine._applied_index = applied_index
        for key, value in items:
            try:
                machine._restore_item(key, value)
            except (TypeError, ValueError) as error:
                raise Corruption(f"the state has a value under key {key.hex()!r} that cannot be read") from error
        indexes = [index for queue in machine._channels for index in snapshot.finish(queue)]
        for index in sorted(indexes):
            machine._channels.entries.add(index)
        machine._channels.take_touched()
        if machine._stored_meta is not None:
            machine._channels.next_number = machine._numbers_end
        return machine

    def _restore_item(self, key: bytes, value: bytes) -> None:
        if key == snapshot.META_KEY:
            version = snapshot.read_version(value)  # before all else: only this version's value has a known shape
            if version != self.VERSION:
                raise Corruption(f"the state is of machine version {version}, this is version {self.VERSION}")
            meta = snapshot.read_meta(value)
            self._stored_meta = value
            self._now_unix_ns = meta.now_unix_ns
            self._trimmed_index = meta.trimmed_index
            self._claims.next_order = meta.next_order
            self._numbers_end = meta.next_number
            return
        if self._stored_meta is None:
            raise Corruption(f"the state has key {key.hex()!r} and no meta record before it")
        if key == snapshot.ROSTER_KEY:
            self._stored_roster, self._roster = value, snapshot.read_roster(value)
            return
        number = snapshot.number_of(key)
        header = snapshot.read_channel(key, value)
        queue = self._channels.numbered(number)
        if header is not None and self._channels.next_number <= number < self._numbers_end:
            snapshot.restore_channel(self._channels.add(number, header.name, header.incarnation), header)
        elif header is None and queue is not None:
            snapshot.restore_part(queue, key, value)
        else:
            raise Corruption(f"the state has key {key.hex()!r} for a channel that is missing or out of order")

    def _meta(self) -> bytes:
        numbers = self._claims.next_order, self._trimmed_index, self._channels.next_number
        return snapshot.write_meta(snapshot.Meta(self.VERSION, self._now_unix_ns, *numbers))
