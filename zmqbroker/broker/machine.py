"""The state machine of one group: committed entries in, results and deliveries out.

Deterministic: what `apply` does depends on the machine's version, its limits and the entries so far, on nothing else. Time is
the highest stamp seen. Effects are data; only a leader acts on them. It trusts what the node checked before it proposed (names,
batch columns, ranges of numbers), yet no decoded command makes it raise: a refusal is a `RequestError` as a result.

Receipts. A message is assigned at most once per `assigning` number, so that an old receipt never fits a newer assignment:
within one command everything that returns to ready does so before anything is assigned (Close, OpenConsumer), or nothing
returns at all (Publish, PublishAll, HandOver, Receive), or all is forgotten before any of it is taken again, and assigned once
(ResetConsumer); and what falls due at the start of an entry is collected first, so that a message
which returns and is assigned there cannot return again before the next entry. The start of an entry uses the ordinal 65,535,
which no command can have (docs/PROTOCOL.md §9 allows 65,535 commands, numbered from 0). The next message of a group, which is
ready when the one before it has finished, was never assigned before: it does not return, so that any command may assign it
(Ack), and the start of an entry, whatever finished there.

Source: DESIGN §6, docs/PROTOCOL.md §3, §4 and §9.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from zmqbroker.broker.audit import Audit
from zmqbroker.broker.claims import Active, Assignment
from zmqbroker.broker.feeding import publish_and_feed
from zmqbroker.broker.handing import hand_over
from zmqbroker.broker.managing import manage
from zmqbroker.broker.moving import Served
from zmqbroker.broker.opening import open_consumer, reset_consumer
from zmqbroker.broker.publishing import open_producer
from zmqbroker.broker.queue import Queue
from zmqbroker.broker.records import Moment
from zmqbroker.broker.routing import publish_all
from zmqbroker.broker.settling import give_back, settle
from zmqbroker.broker.state import State
from zmqbroker.broker.store_rules import unreceivable
from zmqbroker.commands import (
    RECEIPT_ORDINAL_BITS,
    Ack,
    Audited,
    Close,
    Closed,
    Command,
    CreateSchedule,
    DeleteRoute,
    DeleteSchedule,
    Delivery,
    Extend,
    HandOver,
    Nack,
    OpenConsumer,
    OpenProducer,
    Publish,
    PublishAll,
    Receive,
    Reject,
    Requeue,
    ResetConsumer,
    Result,
    Roster,
    Rule,
    SetDefaults,
    SetRoute,
    TakeAudit,
    Tick,
    Trim,
    Waiting,
    is_consumer,
)
from zmqbroker.errors import Busy, RequestError

__all__ = ["Applied", "Machine"]

#: Ordinal of what happens before the first command of an entry; also the number of commands that an entry may have.
ORDINAL_DUE = (1 << RECEIPT_ORDINAL_BITS) - 1


@dataclass(slots=True, frozen=True)
class Applied:
    """What one entry did: a result per command, in order, and answers to receives, oldest first."""

    results: list[Result]
    deliveries: list[Delivery]


class Machine(State):
    """All channels of one group."""

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
        if self._claims.changed:
            self._claims.settle(self._now_unix_ns)
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
        schedules = self._schedules.due(self._now_unix_ns)
        if not claims and not numbers and not schedules:  # as a rule
            return
        moment = Moment(assigning, self._now_unix_ns)
        for number in numbers:
            queue = self._channels.touch(number)
            queue.fall_due(moment.now_unix_ns)
            deliveries += queue.serve(moment)
        self._schedules.fall_due(schedules, moment, deliveries)
        for claim in claims:
            if isinstance(claim, Assignment):
                served = Served()
                give_back(self._channels, claim, moment, served)
                deliveries += served.deliver(moment)
            elif isinstance(claim, Active):
                queue = self._channels.touch(claim.number)
                queue.retire()
                deliveries += queue.serve(moment)
            elif claim in self._claims:  # else what fell due before it has served it
                deliveries += self._channels.touch(claim.number).end_wait(claim, moment)

    def _dispatch(self, command: Command, moment: Moment, deliveries: list[Delivery]) -> Result:
        if isinstance(command, Publish):
            return publish_and_feed(self._channels, command, moment, deliveries)
        if isinstance(command, Receive):
            return self._receive(command, moment, deliveries)
        if isinstance(command, Ack):
            return self._ack(command, moment, deliveries)
        if isinstance(command, OpenProducer):
            return open_producer(self._channels, command, moment)
        if isinstance(command, Close):
            return self._close(command, moment, deliveries)
        if isinstance(command, HandOver):
            return hand_over(self._channels, command, moment, deliveries)
        if isinstance(command, PublishAll):
            return publish_all(self._channels, command, moment, deliveries)
        if isinstance(command, TakeAudit):
            self._audit_due = True
            return Audited(moment.entry_index)
        if isinstance(command, Trim):
            self._trimmed_index = max(self._trimmed_index, command.index)
        elif isinstance(command, Nack | Reject | Requeue | Extend):
            return settle(self._channels, command, moment, deliveries)
        elif isinstance(command, Rule):
            return self._set_rule(command, moment)
        elif isinstance(command, OpenConsumer):
            return open_consumer(self._channels, command, moment, deliveries)
        elif isinstance(command, ResetConsumer):
            return reset_consumer(self._channels, command, moment, deliveries)
        elif not isinstance(command, Tick):
            return manage(self._channels, command, moment, deliveries)
        return None

    def _set_rule(self, command: Rule, moment: Moment) -> Result:
        if isinstance(command, SetDefaults):
            return self._defaults.set(command, moment)
        if isinstance(command, CreateSchedule | DeleteSchedule):
            return self._schedules.change(command, moment)
        if isinstance(command, SetRoute | DeleteRoute):
            return self._routes.change(command, moment)
        return self._channels.bindings.change(command, moment)

    def _receive(self, command: Receive, moment: Moment, deliveries: list[Delivery]) -> Result:
        name, key = command.channel, command.key
        queue: Queue | RequestError
        if refusal := unreceivable(self._channels, name, key.session, key.consumer):
            return refusal
        if is_consumer(name):  # which is opened, and not made by its use
            queue = self._channels.find(name, command.incarnation)
        else:
            queue = self._channels.find_or_create(name, command.incarnation, moment)
        if not isinstance(queue, Queue):
            return queue
        answer = queue.receive(command, moment)
        if isinstance(answer, Busy):
            return answer
        if answer is not None:
            deliveries.append(answer)
            if command.auto_ack and queue.is_grouped:  # the next of their groups are ready now
                deliveries += queue.serve(moment)
        return Waiting()

    def _ack(self, command: Ack, moment: Moment, deliveries: list[Delivery]) -> Result:
        if refusal := unreceivable(self._channels, command.channel, command.session):
            return refusal
        queue = self._channels.find(command.channel)
        if not isinstance(queue, Queue):
            return queue
        result = queue.ack(command.session, command.receipts)
        if queue.settings.max_in_flight or queue.is_grouped:  # others may be given as many, or the next of their groups, now
            deliveries += queue.serve(moment)
        return result

    def _close(self, command: Close, moment: Moment, deliveries: list[Delivery]) -> Closed:
        for waiter in self._claims.waiters(command.session):
            if command.ends(waiter.key):
                self._channels.touch(waiter.number).drop_waiter(waiter)
        served = Served()  # everything returns before anything is assigned again: see "Receipts" above
        returned = sum(
            give_back(self._channels, assignment, moment, served)
            for assignment in self._claims.assignments(command.session)
            if command.ends(assignment.key)
        )
        for active in self._claims.actives(command.session):
            if command.consumer in (None, active.consumer) and not command.request:
                queue = self._channels.touch(active.number)
                queue.retire()
                served.add(queue)
        deliveries += served.deliver(moment)
        return Closed(returned)
