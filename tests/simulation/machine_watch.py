"""The promises of the state machine (I5, I13 to I17, I24 to I26), checked with every entry that any node applies.

The first node to apply an entry says what it does; every other one, and every replay after a crash, must say the same. From
those results a ledger of all messages is kept (`message_ledger`), that deliveries and, at intervals, whole machines are
compared with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tests.simulation.invariants import NodeWatch, RaftWatch
from tests.simulation.line import Line
from tests.simulation.message_ledger import MessageLedger
from tests.simulation.tracked import sends_of
from zmqbroker.broker import Applied, Machine
from zmqbroker.commands import Command, Publish, Published, Result
from zmqbroker.errors import RequestError

__all__ = ["MachineWatch", "WatchedMachine"]

#: Whole machines are compared after every so many entries.
DIGEST_EVERY = 64


class WatchedMachine(Machine):
    """A machine that reports what it did."""

    report: MachineWatch
    watch: NodeWatch

    def apply(self, index: int, time_unix_ns: int, commands: Sequence[Command]) -> Applied:
        """As `Machine.apply`."""
        applied = super().apply(index, time_unix_ns, commands)
        self.report.applied(self.watch, self, commands, applied)
        return applied


def _comparable(result: Result) -> object:
    return (type(result), result.fields, result.outcome_unknown) if isinstance(result, RequestError) else result


class MachineWatch:
    """What every entry did."""

    def __init__(self, raft: RaftWatch, latest_unix_ns: Callable[[], int]) -> None:
        self._raft = raft
        self._latest_unix_ns = latest_unix_ns  # that replicated time may be now
        self._applied: dict[int, Applied] = {}
        self._digests: dict[int, bytes] = {}
        self.last_applied = 0  # highest index that anybody applied
        self.messages = MessageLedger(raft.fail)
        self.line = Line(raft.fail)
        self.batches: dict[tuple[str, int, int], Published] = {}  # (channel, producer, base sequence) -> where it is

    def applied(self, watch: NodeWatch, machine: Machine, commands: Sequence[Command], applied: Applied) -> None:
        """A machine has applied the entry at its applied index."""
        raft, index = self._raft, machine.applied_index
        self._check_entry(watch, index)
        known = self._applied.get(index)
        if known is None:
            if index != self.last_applied + 1:
                raft.fail("I5", f"applied {index} when {self.last_applied} was the last that anybody had applied", watch.id)
            self.last_applied = index
            self._applied[index] = applied
            for command, result in zip(commands, applied.results, strict=True):
                for batch, told in sends_of(command, result):
                    if isinstance(told, Published):
                        self._published(watch.id, batch, told)
            self.line.applied(watch.id, machine, commands, applied)
            self.messages.applied(watch.id, machine, *self.line.rest(commands, applied))
            if machine.now_unix_ns > self._latest_unix_ns():
                ahead_ms = (machine.now_unix_ns - self._latest_unix_ns()) // 1_000_000
                raft.fail("I24", f"replicated time is {ahead_ms} ms ahead of all clocks but one after {index}", watch.id)
        elif known is not applied:
            same = [_comparable(one) for one in known.results] == [_comparable(one) for one in applied.results]
            if not same or known.deliveries != applied.deliveries:
                raft.fail("I13", f"entry {index} did {applied}, elsewhere {known}", watch.id)
        raft.membership_applied(watch, index, watch.state.membership)
        if index % DIGEST_EVERY == 0:
            self.compare(watch, machine)

    def _check_entry(self, watch: NodeWatch, index: int) -> None:
        raft = self._raft
        if index > raft.commit_index:
            raft.fail("I5", f"applied {index}, committed is only {raft.commit_index}", watch.id)
        term = watch.state.log.term_or_none(index)
        if term is not None and term != raft.committed[index]:
            raft.fail("I5", f"applied {index} of term {term}, committed was term {raft.committed[index]}", watch.id)
        if index > watch.durable.last_index:
            raft.fail("I19", f"applied {index}, durable here is only {watch.durable.last_index}", watch.id)

    def compare(self, watch: NodeWatch, machine: Machine) -> None:
        """Compare a whole machine with the others, and with the ledger when it has applied what that knows."""
        self._same(watch.id, machine, "I13", "is another than elsewhere")
        if machine.applied_index == self.last_applied:
            self.messages.audit(watch.id, machine)
            self.line.audit(watch.id, machine)

    def flushed(self, node: int, machine: Machine) -> None:
        """A machine's state goes to the store: whoever reads it there must find this one."""
        self._same(node, machine, "I13", "is another than elsewhere")

    def restored(self, node: int, machine: Machine) -> None:
        """A machine was made of what a store held: it must be what the log makes of the same entries (I14)."""
        if machine.applied_index:
            self._same(node, machine, "I14", "came back from the store as another")

    def _same(self, node: int, machine: Machine, invariant: str, otherwise: str) -> None:
        index, digest = machine.applied_index, machine.digest()
        if self._digests.setdefault(index, digest) != digest:
            self._raft.fail(invariant, f"the state after {index} {otherwise}", node)

    # --- producers -----------------------------------------------------------------------------------------------------

    def _published(self, node: int, command: Publish, result: Published) -> None:
        header, raft = command.header, self._raft
        key = (header.channel, header.producer, header.base_sequence)
        known = self.batches.get(key) if header.producer else None
        if known is not None:
            if not result.duplicate or (known.first_sequence, known.count) != (result.first_sequence, result.count):
                raft.fail("I15", f"batch {key} is at {known} and at {result}", node)
            return
        if result.duplicate:
            raft.fail("I15", f"batch {key} is called a duplicate and was never stored", node)
        self.batches[key] = result
