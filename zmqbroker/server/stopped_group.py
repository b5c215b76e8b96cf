"""One group of a node that does not run: what its log and its store together hold, up to the last entry.

As a start would have it, and further: entries behind the commit that is known here are applied too. They may have been
acknowledged, since a node hears of a commit later than the leader that acknowledges. Nothing is written. Source: DESIGN
promise 6, docs/STORAGE.md §6 and §9.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from zmqbroker.broker import Machine, snapshot
from zmqbroker.commands import Member
from zmqbroker.errors import Compacted, Corruption
from zmqbroker.raft.confchange import InvalidChange, change_membership, decode
from zmqbroker.raft.messages import Entry, EntryType
from zmqbroker.server.membership import changed, founding, membership_of
from zmqbroker.server.opening import begin_behind_snapshot
from zmqbroker.storage.interfaces import LogStore, StateStore
from zmqbroker.wire.entries import decode_entry

__all__ = ["StoppedGroup", "bodies_of", "depths", "live_indexes", "open_stopped", "read_body", "replay"]

#: Bytes of entries that are read in one go.
_SLICE_BYTES = 4 << 20


@dataclass(slots=True, frozen=True)
class StoppedGroup:
    """Log, store and machine of a group, as they were found."""

    number: int
    log: LogStore
    state: StateStore
    machine: Machine  # as of stored_index, or further after `replay`
    stored_index: int  # applied_index of the store
    commit_index: int  # as far as it is known here: the higher one of what log and store say
    last_index: int
    last_term: int
    found: dict[int, bytes] = field(default_factory=dict)  # payloads from behind a flaw in the log, by index

    @property
    def messages(self) -> dict[str, int]:
        """Messages of each channel that are not finished, as the machine is now."""
        return depths(self.machine)


def open_stopped(
    number: int, founders: tuple[Member, ...], log: LogStore, state: StateStore, *, cut: bool = False
) -> StoppedGroup:
    """The group as a start would take it up; `cut`: the log may end before the stored state, which then is all there is.

    Raises Corruption when log and store do not fit each other, StorageError.
    """
    begin_behind_snapshot(number, log, state)
    stored_index, view = state.applied_index(number), log.view(number)
    if stored_index < view.first_index() - 1 or (stored_index > view.last_index() and not cut):
        held = f"{view.first_index()} to {view.last_index()}"
        raise Corruption(f"group {number}: the state is that of index {stored_index}, but the log holds {held}")
    machine = Machine.restore(stored_index, state.load(number))
    if not machine.roster.membership:
        machine.found(founding(founders))
    commit_index, last_index = max(stored_index, view.hard_state().commit), view.last_index()
    last_term = view.term(last_index)
    if stored_index > last_index:  # its term is not known: in a new cluster any will do
        last_index, last_term = stored_index, max(view.hard_state().term, 1)
    return StoppedGroup(number, log, state, machine, stored_index, commit_index, last_index, last_term)


def replay(group: StoppedGroup) -> None:
    """Apply all that the log holds behind the stored state. Raises StorageError, MalformedFrame."""
    view, index = group.log.view(group.number), group.machine.applied_index + 1
    while index <= group.last_index:
        entries = view.entries(index, group.last_index + 1, _SLICE_BYTES)
        for entry in entries:
            _apply(group.machine, entry)
        index += len(entries)


def _apply(machine: Machine, entry: Entry) -> None:
    if entry.type is EntryType.NORMAL:
        decoded = decode_entry(entry.data) if entry.data else None
        machine.apply(entry.index, decoded.time_unix_ns if decoded else 0, decoded.commands if decoded else ())
        return
    membership = membership_of(machine.roster)
    with suppress(InvalidChange):  # it changed nothing, on every node
        membership, _ = change_membership(membership, decode(entry.data))
    machine.change_members(entry.index, changed(machine.roster, entry.index, membership, entry.data))


def bodies_of(group: StoppedGroup, indexes: list[int]) -> Iterator[tuple[int, bytes]]:
    """The payloads of entries, from log or store. Raises Corruption for one that neither holds, StorageError."""
    for index in indexes:
        yield index, read_body(group, index)


def read_body(group: StoppedGroup, index: int) -> bytes:
    """The payload of one entry. Raises as `bodies_of`."""
    if index <= group.log.view(group.number).last_index():
        with suppress(Compacted):
            return group.log.read(group.number, index)
    payload = group.state.body(group.number, index) or group.found.get(index)
    if payload is None:
        raise Corruption(f"group {group.number}: the bodies of entry {index} are neither in the log nor in the store")
    return payload


def depths(machine: Machine) -> dict[str, int]:
    """Messages of each channel that are not finished."""
    stats = {name: machine.stats(name) for name in machine.channels()}
    return {name: found.depth for name, found in stats.items() if found is not None}


def live_indexes(machine: Machine) -> list[int]:
    """The entries that hold a live message, ascending."""
    found = {snapshot.entry_index(key, value) for key, value in machine.items()}
    return sorted(index for index in found if index is not None)
