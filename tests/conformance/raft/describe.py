"""How the reference writes messages, entries and states; ids are in hexadecimal where it writes them so."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from zmqbroker.raft.confchange import ChangeType, ConfChange, decode
from zmqbroker.raft.messages import Entry, EntryType, HardState, Message, MessageType, Role, Snapshot, StorageAppend
from zmqbroker.raft.trace import MESSAGE_NAMES

__all__ = [
    "CHANGE_LETTERS",
    "ROLE_NAMES",
    "describe_append",
    "describe_applied",
    "describe_apply",
    "describe_entry",
    "describe_hard_state",
    "describe_message",
    "describe_snapshot",
    "indent",
]

CHANGE_LETTERS = {"v": ChangeType.ADD_VOTER, "r": ChangeType.REMOVE, "u": ChangeType.UPDATE, "l": ChangeType.ADD_LEARNER}
_LETTERS = {kind: letter for letter, kind in CHANGE_LETTERS.items()}

ROLE_NAMES = {
    Role.FOLLOWER: "StateFollower",
    Role.CANDIDATE: "StateCandidate",
    Role.LEADER: "StateLeader",
    Role.PRE_CANDIDATE: "StatePreCandidate",
}


def indent(text: str) -> str:
    """Every line two columns further to the right."""
    return "".join(f"  {line}\n" for line in text.splitlines())


def _changes(change: ConfChange) -> str:
    return "".join(f" {_LETTERS[one.type]}{one.node}" for one in change.changes)


def describe_entry(entry: Entry) -> str:
    """Term, index, kind and payload."""
    place = f"{entry.term}/{entry.index}"
    if entry.type is EntryType.NORMAL:
        return f"{place} EntryNormal {json.dumps(entry.data.decode())}"
    name = "EntryConfChange" if entry.type is EntryType.SIMPLE_CHANGE else "EntryConfChangeV2"
    return f"{place} {name}{_changes(decode(entry.data))}"


def _entries(entries: Sequence[Entry]) -> str:
    if len(entries) == 1:
        return f"[{describe_entry(entries[0])}]"
    return "[\n" + "".join(f"  {describe_entry(entry)}\n" for entry in entries) + "]"


def describe_hard_state(state: HardState) -> str:
    """Term, vote if there is one, and commit index."""
    vote = f" Vote:{state.vote}" if state.vote else ""
    return f"Term:{state.term}{vote} Commit:{state.commit}"


def _ids(ids: Iterable[int]) -> str:
    return f"[{' '.join(str(id) for id in ids)}]"


def describe_snapshot(snapshot: Snapshot) -> str:
    """Index, term and membership."""
    members = snapshot.membership
    return (
        f"Index:{snapshot.index} Term:{snapshot.term} ConfState:Voters:{_ids(members.voters)} "
        f"VotersOutgoing:{_ids(members.voters_outgoing)} Learners:{_ids(members.learners)} "
        f"LearnersNext:{_ids(members.learners_next)} AutoLeave:{str(members.auto_leave).lower()}"
    )


def describe_message(message: Message) -> str:
    """One message between nodes, or what a node's log answers to it."""
    sender = "AppendThread" if message.type is MessageType.STORAGE_APPEND_RESPONSE else f"{message.sender:x}"
    text = f"{sender}->{message.to:x} {MESSAGE_NAMES[message.type]} "
    text += f"Term:{message.term} Log:{message.log_term}/{message.index}"
    if message.reject:
        text += f" Rejected (Hint: {message.reject_hint})"
    if message.commit:
        text += f" Commit:{message.commit}"
    return text + _contents(message.entries, message.snapshot)


def _contents(entries: Sequence[Entry], snapshot: Snapshot | None) -> str:
    text = f" Entries:{_entries(entries)}" if entries else ""
    return text + f"\n  Snapshot: {describe_snapshot(snapshot)}" if snapshot is not None else text


def describe_append(node: int, work: StorageAppend) -> str:
    """Work for a node's log, as the message to its append thread; its responses are written by the caller."""
    state = work.hard_state or HardState()
    text = f"{node:x}->AppendThread MsgStorageAppend Term:{state.term} Log:0/0"
    if state.commit:
        text += f" Commit:{state.commit}"
    if state.vote:
        text += f" Vote:{state.vote}"
    return text + _contents(work.entries, work.snapshot)


def describe_apply(node: int, entries: Sequence[Entry]) -> str:
    """Committed entries, as the message to a node's apply thread."""
    return f"{node:x}->ApplyThread MsgStorageApply Term:0 Log:0/0{_contents(entries, None)}"


def describe_applied(node: int, entries: Sequence[Entry]) -> str:
    """The apply thread's answer."""
    return f"ApplyThread->{node:x} MsgStorageApplyResp Term:0 Log:0/0{_contents(entries, None)}"
