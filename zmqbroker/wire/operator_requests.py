"""What operators ask of a cluster, as values: other members, another leader, an audit of the state, a backup.

`requests` reads and writes them with all others; here are their fields and ranges. Source: docs/PROTOCOL.md §3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zmqbroker.errors import InvalidRequest
from zmqbroker.wire.batch import SEQUENCE_MAX, Buffer
from zmqbroker.wire.frames import U64_MAX, binary, flag, integer, shown, text

__all__ = [
    "ACTIONS",
    "BACKUP_ID_SIZE",
    "AuditRequest",
    "BackupRequest",
    "ChangeMembers",
    "Transfer",
    "read_audit",
    "read_backup",
    "read_change_members",
    "read_transfer",
]

#: Of a node; configurations allow 63 characters.
NAME_SIZE_MAX = 63
#: Of a key of the state; they have 13 bytes at most.
KEY_SIZE_MAX = 255
BUCKET_MAX = 255
#: A backup's id is chosen at random by who wants it.
BACKUP_ID_SIZE = 16
#: What CHANGE_MEMBERS can do.
ACTIONS = ("add", "replace", "remove")

Fields = Mapping[str, Any]


@dataclass(slots=True, frozen=True)
class ChangeMembers:
    """Take a node into the cluster, let one take another's place, or remove one."""

    action: str  # one of ACTIONS
    name: str
    by: str = ""  # of replace: name of the newcomer; empty: it has the same name
    learner: bool = False  # of add: it stays a learner
    forward: bool = False


@dataclass(slots=True, frozen=True)
class Transfer:
    """Hand leadership to another node."""

    to: str = ""  # its name; empty: whichever voter is furthest
    forward: bool = False


@dataclass(slots=True, frozen=True)
class AuditRequest:
    """Take an audit of the replicated state, or ask a node what it kept of one."""

    index: int = 0  # 0: take one, at the leader; else that of the one that is asked for, of any node
    bucket: int | None = None  # list this bucket's keys
    after: bytes = b""  # and only those greater than this
    forward: bool = False


@dataclass(slots=True, frozen=True)
class BackupRequest:
    """The bytes of a backup from `offset` on, of the very node that is asked; the first request has it made."""

    id: bytes  # chosen by the client; the same in all requests of one backup
    offset: int = 0
    index: int = 0  # the state that is backed up must hold the log up to there


def read_change_members(fields: Fields, _bodies: Sequence[Buffer]) -> ChangeMembers:
    """CHANGE_MEMBERS. Raises InvalidRequest."""
    action = text(fields, "action", None, NAME_SIZE_MAX)
    if action not in ACTIONS:
        raise InvalidRequest(f"field action is {shown(action)}, it must be one of {', '.join(ACTIONS)}")
    name, by = text(fields, "name", None, NAME_SIZE_MAX), text(fields, "by", "", NAME_SIZE_MAX)
    if not name:
        raise InvalidRequest("field name is empty")
    return ChangeMembers(action, name, by, flag(fields, "learner"), flag(fields, "forward"))


def read_transfer(fields: Fields, _bodies: Sequence[Buffer]) -> Transfer:
    """TRANSFER. Raises InvalidRequest."""
    return Transfer(text(fields, "to", "", NAME_SIZE_MAX), flag(fields, "forward"))


def read_audit(fields: Fields, _bodies: Sequence[Buffer]) -> AuditRequest:
    """AUDIT. Raises InvalidRequest."""
    index = integer(fields, "index", 0, 0, SEQUENCE_MAX)
    bucket = integer(fields, "bucket", None, 0, BUCKET_MAX) if "bucket" in fields else None
    after = fields.get("after", b"")
    if not isinstance(after, bytes) or len(after) > KEY_SIZE_MAX:
        raise InvalidRequest(f"field after must be binary of at most {KEY_SIZE_MAX} bytes: {shown(after)}")
    return AuditRequest(index, bucket, after, flag(fields, "forward"))


def read_backup(fields: Fields, _bodies: Sequence[Buffer]) -> BackupRequest:
    """BACKUP. Raises InvalidRequest."""
    id = binary(fields, "id", BACKUP_ID_SIZE)
    if id is None:
        raise InvalidRequest(f"field id is missing, it must be binary of {BACKUP_ID_SIZE} bytes")
    return BackupRequest(id, integer(fields, "offset", 0, 0, U64_MAX), integer(fields, "index", 0, 0, SEQUENCE_MAX))
