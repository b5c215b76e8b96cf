"""When a majority is gone for ever: a new cluster of one node from what one stopped data directory holds.

Everything is taken: the stored state, the committed log, and what lies behind the commit that is known there. Such an entry may
have been acknowledged, since the leader acknowledges before others hear of the commit; and it may not have been, since the last
leader may have died before. Keeping a message that nobody was promised is the smaller harm, so it is kept. What only the lost
nodes held is lost. The old directory is read and never changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from zmqbroker.errors import Corruption, DataDirectoryError
from zmqbroker.server.isolation import isolated
from zmqbroker.server.new_directory import GroupState, NewNode, check_empty, make_directory
from zmqbroker.server.stopped_group import StoppedGroup, bodies_of, live_indexes, open_stopped, read_body, replay
from zmqbroker.server.verifying import check_state
from zmqbroker.storage.identity import Identity
from zmqbroker.storage.log_reader import Flaw, FoundRecord, read_log
from zmqbroker.storage.record import RecordType
from zmqbroker.storage.segment_log import SegmentLog
from zmqbroker.storage.stopped import StoppedDirectory

__all__ = ["Recovery", "recover_cluster", "survey"]

DATA_GROUP = 1


@dataclass(slots=True, frozen=True)
class Recovery:
    """What a directory gives, before anything is made of it."""

    identity: Identity
    group: StoppedGroup
    live: list[int]  # entries that hold a live message, ascending
    flaw: Flaw | None  # where the log is damaged, so that what comes behind was left out

    @property
    def uncommitted(self) -> int:
        """Entries behind the commit that is known: they may or may not have been acknowledged."""
        return self.group.last_index - self.group.commit_index


def survey(directory: StoppedDirectory, *, accept_damage: bool = False) -> Recovery:
    """Read all that there is and see that it fits together. Raises DataDirectoryError, Corruption, StorageError.

    With `accept_damage` a damaged log counts up to its first flaw. The stored state may be ahead of that: it is complete
    then but for bodies, which are looked for behind the flaw. A damaged store is refused in any case.
    """
    identity = directory.identity()
    if identity.cluster_uid is None:
        raise DataDirectoryError(f"{directory.path}: its node never was a member of a cluster: there is nothing to recover")
    *_, faults = isolated(lambda: check_state(directory), f"{directory.path / 'state'}")
    if faults:
        raise Corruption(faults[0])
    log, flaw = _open_log(directory, accept_damage)
    group = open_stopped(DATA_GROUP, identity.founders, log, directory.open_state(), cut=flaw is not None)
    replay(group)
    live = live_indexes(group.machine)
    if flaw is not None:
        _look_behind(directory, group, live)
    for index in live:
        read_body(group, index)
    return Recovery(identity, group, live, flaw)


def _open_log(directory: StoppedDirectory, accept_damage: bool) -> tuple[SegmentLog, Flaw | None]:
    """The log; if it is damaged and that is accepted, up to the damage, and where that is."""
    try:
        return directory.open_log(), None
    except Corruption:
        flaw = next((event for event in read_log(directory.log_path) if isinstance(event, Flaw)), None)
        if flaw is None or not accept_damage:
            raise
        return directory.open_log(flaw), flaw


def _look_behind(directory: StoppedDirectory, group: StoppedGroup, live: list[int]) -> None:
    """Find the bodies of live entries behind the end of a log that was cut."""
    missing = {index for index in live if index > group.log.view(group.number).last_index()}
    for event in read_log(directory.log_path):
        if isinstance(event, FoundRecord) and (event.header.type, event.header.group) == (RecordType.ENTRY, group.number):
            index = event.header.entry_index
            if index in missing:
                group.found[index] = event.payload  # the last one that was written at an index is the one that counts


def recover_cluster(recovery: Recovery, path: Path, node: NewNode) -> Identity:
    """Make the new data directory. Raises as `make_directory`."""
    check_empty(path)
    group = recovery.group
    machine = group.machine
    contents = GroupState(
        group.number,
        machine.applied_index,
        group.last_term,
        machine.roster,
        machine.items(),
        bodies_of(group, recovery.live),
    )
    return make_directory(path, node, contents)
