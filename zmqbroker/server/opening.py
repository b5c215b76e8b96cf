"""How a group of a formed cluster is taken up again from what log and store hold."""

from __future__ import annotations

import os
import random
from dataclasses import replace
from itertools import takewhile

from zmqbroker.broker import Machine
from zmqbroker.broker.snapshot import ROSTER_KEY, read_roster
from zmqbroker.commands import Member
from zmqbroker.config import NodeConfig
from zmqbroker.errors import Corruption
from zmqbroker.raft import RaftConfig, RaftCore
from zmqbroker.raft.messages import HardState, Snapshot, StorageAppend
from zmqbroker.server.clock import SystemClock
from zmqbroker.server.group import Group, Host
from zmqbroker.server.membership import founding, membership_of
from zmqbroker.storage.interfaces import LogStore, StateStore

__all__ = ["align", "begin_behind_snapshot", "check_bodies", "open_group"]


def open_group(
    number: int,
    member_id: int,
    founders: tuple[Member, ...],
    config: NodeConfig,
    log: LogStore,
    state: StateStore,
    host: Host,
    confirm: str,
) -> Group:
    """The group as its log and its store left it.

    A group that has applied nothing begins with the founders: the changes since then are in the log, or in a snapshot. Raises
    Corruption as `align` does.
    """
    align(number, log, state)
    applied_index = state.applied_index(number)
    machine = Machine.restore(applied_index, state.load(number))
    check_bodies(number, machine, log, state)
    if not machine.roster.membership:
        machine.found(founding(founders))
    membership = membership_of(machine.roster)
    core = RaftCore(
        raft_config(number, member_id, config), membership, log.view(number), random.Random(os.urandom(16)), applied_index
    )
    return Group(
        number,
        core,
        machine,
        host,
        confirm,
        SystemClock(),
        requests_max=config.limits.requests_max,
        trim_bytes=config.storage.segment_bytes // 4,  # so that little more than the segment in use stays behind
    )


def align(number: int, log: LogStore, state: StateStore) -> None:
    """See that the log fits the stored state, and begin it behind an installed snapshot where that was left undone.

    Raises Corruption when it ends before the state: then the disk has not kept what it said it had synced. And when it begins
    behind what comes after the state: then the state is an older one than the log was trimmed for.
    """
    begin_behind_snapshot(number, log, state)
    view = log.view(number)
    applied_index, first_index, last_index = state.applied_index(number), view.first_index(), view.last_index()
    if applied_index < first_index - 1:
        raise Corruption(
            f"group {number}: the store holds what entry {applied_index} left, and the log begins with entry {first_index}: "
            "what was stored last is missing"
        )
    if applied_index > last_index:
        raise Corruption(
            f"group {number}: the store holds what entry {applied_index} left, and the log ends with entry {last_index}: "
            "acknowledged entries are missing"
        )


def begin_behind_snapshot(number: int, log: LogStore, state: StateStore) -> None:
    """Begin the log behind an installed snapshot, where the node ended after the state was replaced and before the log was.

    Nothing is applied between the two, so the state is still the snapshot's. Where it is not, the log has to fit as it is.
    """
    index, term = state.installed(number)
    view = log.view(number)
    if state.applied_index(number) != index or index < view.first_index():
        return
    if index <= view.last_index() and view.term(index) == term:
        return
    membership = membership_of(read_roster(state.get(number, ROSTER_KEY) or b""))
    # The term in which the snapshot came may not have been stored: then no vote was given in it either.
    hard_state = view.hard_state()
    if hard_state.term < term:
        hard_state = HardState(term=term)
    snapshot = Snapshot(index, term, membership)
    job = log.prepare([StorageAppend(number, hard_state=replace(hard_state, commit=index), must_sync=True, snapshot=snapshot)])
    job.write()
    job.sync()
    log.complete(job)


def check_bodies(number: int, machine: Machine, log: LogStore, state: StateStore) -> None:
    """See that the body of every live message is in the log or in the store; none is read. Raises Corruption."""
    first_index = log.view(number).first_index()
    stored = set(state.body_indexes(number))
    missing = [index for index in takewhile(lambda index: index < first_index, machine.live_indexes()) if index not in stored]
    if missing:
        raise Corruption(
            f"group {number}: {len(missing)} entries with waiting messages, {missing[0]} the first, are not in the log, which "
            f"begins at {first_index}, and their bodies are not in the store"
        )


def raft_config(number: int, member_id: int, config: NodeConfig) -> RaftConfig:
    """What the settings say to a Raft core; the options that no setting has are DESIGN §4's."""
    return RaftConfig(
        id=member_id,
        group=number,
        election_ticks=config.raft.election_ticks,
        heartbeat_ticks=config.raft.heartbeat_ticks,
        inflight_messages_max=config.raft.inflight_messages_max,
        inflight_bytes_max=config.raft.inflight_bytes_max,
        message_bytes_max=config.raft.append_bytes_max,
        uncommitted_bytes_max=config.raft.uncommitted_bytes_max,
        committed_bytes_max=config.raft.committed_bytes_max,
    )
