"""What operators ask of a cluster, as values: other members, another leader, an audit of the state.

`requests` reads and writes them with all others; here are their fields and ranges. Source: docs/PROTOCOL.md §3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zmqbroker.errors import InvalidRequest
from zmqbroker.wire.batch import SEQUENCE_MAX, Buffer
from zmqbroker.wire.frames import flag, integer, shown, text

__all__ = [
    "ACTIONS",
    "AuditRequest",
    "ChangeMembers",
    "Transfer",
    "read_audit",
    "read_change_members",
    "read_transfer",
]

#: Of a node; configurations allow 63 characters.
NAME_SIZE_MAX = 63
#: Of a key of the state; they have 13 bytes at most.
KEY_SIZE_MAX = 255
BUCKET_MAX = 255
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
