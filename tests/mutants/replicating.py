"""Defects of replication and commits."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.mutants.voting import answer_before_disk
from zmqbroker.raft import election, replication
from zmqbroker.raft.log import RaftLog
from zmqbroker.raft.messages import Entry, Message, MessageType, Snapshot
from zmqbroker.raft.progress import Progress, ProgressState
from zmqbroker.raft.state import RaftState
from zmqbroker.raft.unstable import Unstable

__all__ = [
    "acknowledge_before_disk",
    "acknowledge_itself_before_disk",
    "believe_late_acknowledgements",
    "believe_late_writes",
    "commit_by_heartbeat",
    "commit_earlier_terms",
    "cut_always",
    "hold_back_for_ever",
    "keep_suffix",
    "say_nothing_when_full",
    "trust_stored_index",
]


def acknowledge_before_disk(patch: pytest.MonkeyPatch) -> None:
    """M3."""
    answer_before_disk(patch, MessageType.APPEND_ENTRIES_RESPONSE)


def acknowledge_itself_before_disk(patch: pytest.MonkeyPatch) -> None:
    """M4."""
    append = replication.append

    def appended(state: RaftState, payloads: Sequence[replication.Payload]) -> int:
        index = append(state, payloads)
        state.messages_after_append.pop()
        state.progress[state.id].maybe_update(index)
        replication.maybe_commit(state)
        return index

    patch.setattr("zmqbroker.raft.replication.append", appended)
    patch.setattr("zmqbroker.raft.proposals.append", appended)


def commit_earlier_terms(patch: pytest.MonkeyPatch) -> None:
    """M5 (Raft figure 8)."""

    def maybe_commit(log: RaftLog, index: int, term: int) -> bool:
        moved = index > log.commit_index
        log.commit_to(index)
        return moved

    patch.setattr(RaftLog, "maybe_commit", maybe_commit)


def cut_always(patch: pytest.MonkeyPatch) -> None:
    """M7: a late, shorter message cuts what was acknowledged since."""

    def maybe_append(log: RaftLog, index: int, term: int, entries: Sequence[Entry], commit_index: int) -> int | None:
        if log.term_or_none(index) != term:
            return None
        if entries:
            log.append(entries)
        log.commit_to(min(commit_index, index + len(entries)))
        return index + len(entries)

    patch.setattr(RaftLog, "maybe_append", maybe_append)


def commit_by_heartbeat(patch: pytest.MonkeyPatch) -> None:
    """M8: a heartbeat carries the commit index whatever the follower holds."""

    def broadcast_heartbeat(state: RaftState) -> None:
        state.reads.round_due = False
        for node in state.others:
            state.send(Message(MessageType.HEARTBEAT, to=node, commit=state.log.commit_index, context=state.reads.round))

    patch.setattr("zmqbroker.raft.replication.broadcast_heartbeat", broadcast_heartbeat)


def _believe_earlier_terms(patch: pytest.MonkeyPatch, kind: MessageType) -> None:
    accept_term = election.accept_term

    def accepted(state: RaftState, message: Message) -> bool:
        return (message.type is kind and message.term < state.term) or accept_term(state, message)

    patch.setattr("zmqbroker.raft.election.accept_term", accepted)


def believe_late_acknowledgements(patch: pytest.MonkeyPatch) -> None:
    """M9."""
    _believe_earlier_terms(patch, MessageType.APPEND_ENTRIES_RESPONSE)


def believe_late_writes(patch: pytest.MonkeyPatch) -> None:
    """M21a: the disk's answer of an earlier term counts, though the entries may have been replaced and replaced again."""
    _believe_earlier_terms(patch, MessageType.STORAGE_APPEND_RESPONSE)


def trust_stored_index(patch: pytest.MonkeyPatch) -> None:
    """M21b: the disk's answer counts for whatever entry has the index now."""
    stable_to = Unstable.stable_to

    def trusted(unstable: Unstable, index: int, term: int) -> None:
        if unstable.offset <= index <= unstable.last_index:
            term = unstable.entries[index - unstable.offset].term
        stable_to(unstable, index, term)

    patch.setattr(Unstable, "stable_to", trusted)


def say_nothing_when_full(patch: pytest.MonkeyPatch) -> None:
    """M22: if all that fill the window are lost, nobody ever asks for them."""
    send_append = replication.send_append

    def sent(state: RaftState, to: int, *, send_if_empty: bool) -> bool:
        progress = state.progress[to]
        if progress.state is ProgressState.REPLICATE and progress.inflights.full:
            return False
        return send_append(state, to, send_if_empty=send_if_empty)

    for module in ("replication", "proposals", "transfer"):
        patch.setattr(f"zmqbroker.raft.{module}.send_append", sent)


def hold_back_for_ever(patch: pytest.MonkeyPatch) -> None:
    """A heartbeat's response ends no pause."""
    patch.setattr(Progress, "resume", lambda progress: None)


def keep_suffix(patch: pytest.MonkeyPatch) -> None:
    """M25a: installing a snapshot keeps what the core holds behind it, and acknowledges that too."""
    restore = Unstable.restore

    def restored(unstable: Unstable, snapshot: Snapshot) -> None:
        kept = [entry for entry in unstable.entries if entry.index > snapshot.index]
        restore(unstable, snapshot)
        if kept and kept[0].index == snapshot.index + 1:
            unstable.entries = kept

    patch.setattr(Unstable, "restore", restored)
