"""The records of a stopped node's log, one row each, in words that a person understands.

A row is a map of what is in the record; scripts read it as it is, people get its line. Nothing is changed, and what is
damaged has a row of its own. Source: docs/STORAGE.md §3 to §5.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from zmqbroker.commands import Close, Command, HandOver, Publish, Receive, Trim
from zmqbroker.errors import BrokerError
from zmqbroker.raft.confchange import ChangeType, InvalidChange, decode
from zmqbroker.raft.messages import EntryType
from zmqbroker.storage.log_reader import Flaw, FoundRecord, FoundSegment, read_log
from zmqbroker.storage.record import RecordType, to_entry, to_hard_state
from zmqbroker.storage.stopped import StoppedDirectory
from zmqbroker.wire.entries import decode_entry
from zmqbroker.wire.membership import decode_members

__all__ = ["describe_entry", "dump_log"]

_CHANGES = {
    ChangeType.ADD_VOTER: "add voter",
    ChangeType.REMOVE: "remove",
    ChangeType.UPDATE: "update",
    ChangeType.ADD_LEARNER: "add learner",
}


def dump_log(directory: StoppedDirectory, group: int | None, first: int, last: int | None) -> Iterator[dict[str, Any]]:
    """Rows of `kind` segment, record and damage, in the order of the files.

    Records are those of `group` (None: of all), entries those with indexes `first` to `last` (None: to the end); a bound on
    the index leaves out what has none.
    """
    bounded = first > 1 or last is not None
    for event in read_log(directory.log_path):
        if isinstance(event, Flaw):
            yield {"kind": "damage", "path": str(event.path), "offset": event.offset, "what": event.what}
        elif isinstance(event, FoundSegment):
            yield _segment(event)
        elif group in (None, event.header.group):
            index = event.header.entry_index
            if not bounded or (first <= index and (last is None or index <= last) and index):
                yield _record(event)


def _segment(event: FoundSegment) -> dict[str, Any]:
    header = event.header
    groups = [
        {
            "group": number,
            "term": base.hard_state.term,
            "vote": base.hard_state.vote,
            "commit": base.hard_state.commit,
            "last_index": base.last_index,
            "last_term": base.last_term,
        }
        for number, base in sorted(header.groups.items())
    ]
    return {
        "kind": "segment",
        "path": str(event.path),
        "sequence": header.sequence,
        "first_lsn": header.first_lsn,
        "uuid": header.uuid.hex(),
        "size": header.file_size,
        "groups": groups,
    }


def _record(event: FoundRecord) -> dict[str, Any]:
    header = event.header
    return {
        "kind": "record",
        "lsn": header.lsn,
        "segment": event.sequence,
        "offset": event.offset,
        "type": RecordType(header.type).name,
        "group": header.group,
        "index": header.entry_index,
        "term": header.term,
        "size": len(event.payload),
        "synced_lsn": header.synced_lsn,
        "what": _what(event),
    }


def _what(event: FoundRecord) -> str:
    header = event.header
    try:
        if header.type == RecordType.HARD_STATE:
            state = to_hard_state(event.payload)
            return f"term {state.term}, vote {state.vote}, commit {state.commit}"
        if header.type == RecordType.SNAPSHOT:
            return "the log begins anew behind it"
        entry = to_entry(header, event.payload)
        return describe_entry(entry.type, entry.data)
    except (BrokerError, ValueError) as error:
        return f"cannot be understood: {error}"


def describe_entry(kind: EntryType, payload: bytes) -> str:
    """What an entry does, in words. Raises BrokerError or ValueError when it is none."""
    if kind is not EntryType.NORMAL:
        return _describe_change(payload)
    if not payload:
        return "empty: a new leader"
    counts: Counter[tuple[str, str]] = Counter()
    messages: Counter[tuple[str, str]] = Counter()
    for command in decode_entry(payload).commands:
        key = type(command).__name__, _subject(command)
        counts[key] += 1
        messages[key] += sum(batch.header.count for batch in _batches(command))
    return ", ".join(
        " ".join(filter(None, (name, subject, f"x{count}" * (count > 1), _messages(messages[name, subject]))))
        for (name, subject), count in counts.items()
    )


def _batches(command: Command) -> tuple[Publish, ...]:
    """The batches that a command stores."""
    if isinstance(command, Publish):
        return (command,)
    return command.batches if isinstance(command, HandOver) else ()


def _subject(command: Command) -> str:
    """What a command is about."""
    if isinstance(command, Publish):
        return repr(command.header.channel)
    if isinstance(command, HandOver):
        return f"{command.channel!r} to {', '.join(sorted({repr(batch.header.channel) for batch in command.batches}))}"
    if isinstance(command, Trim):
        return f"up to {command.index}"
    if isinstance(command, Close):
        return f"session {command.session.hex()}" + ("" if command.consumer is None else f" consumer {command.consumer}")
    channel = getattr(command, "channel", None)
    more = f" max {command.count_max}" if isinstance(command, Receive) else ""
    return "" if channel is None else f"{channel!r}{more}"


def _messages(count: int) -> str:
    return f"({count} message{'s' * (count > 1)})" if count else ""


def _describe_change(payload: bytes) -> str:
    try:
        change = decode(payload)
    except InvalidChange as error:
        return f"a membership change that changes nothing: {error}"
    if change.leaves_joint:
        return "leave the joint membership"
    names = {member.id: f"{member.name} at {member.peer}" for member in decode_members(change.context)}
    parts = [
        f"{_CHANGES[one.type]} {one.node}" + (f" ({names[one.node]})" if one.node in names else "") for one in change.changes
    ]
    return ", ".join(parts) + (" through a joint membership" if change.enters_joint else "")
