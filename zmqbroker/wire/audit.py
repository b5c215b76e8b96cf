"""The AUDIT request as a value: docs/PROTOCOL.md §3."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zmqbroker.errors import InvalidRequest
from zmqbroker.wire.batch import Buffer
from zmqbroker.wire.frames import U64_MAX, flag, integer, shown

__all__ = ["AuditRequest", "read_audit"]

#: Of a key of the state; they have 13 bytes at most.
KEY_SIZE_MAX = 255
BUCKET_MAX = 255


@dataclass(slots=True, frozen=True)
class AuditRequest:
    """Take an audit of the replicated state, or ask a node what it kept of one."""

    index: int = 0  # 0: take one, at the leader; else that of the one that is asked for, of any node
    bucket: int | None = None  # list this bucket's keys
    after: bytes = b""  # and only those greater than this
    forward: bool = False


def read_audit(fields: Mapping[str, Any], _bodies: Sequence[Buffer]) -> AuditRequest:
    """The request in an AUDIT frame. Raises InvalidRequest."""
    index = integer(fields, "index", 0, 0, U64_MAX)
    bucket = integer(fields, "bucket", None, 0, BUCKET_MAX) if "bucket" in fields else None
    after = fields.get("after", b"")
    if not isinstance(after, bytes) or len(after) > KEY_SIZE_MAX:
        raise InvalidRequest(f"field after must be binary of at most {KEY_SIZE_MAX} bytes: {shown(after)}")
    return AuditRequest(index, bucket, after, flag(fields, "forward"))
