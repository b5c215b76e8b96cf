"""INTEREST between nodes: an announcement as the fields of a peer frame, and back. Source: docs/PROTOCOL.md §8."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zmqbroker.commands import Announcement, RealtimeKind, Want
from zmqbroker.errors import MalformedFrame
from zmqbroker.wire.frames import U32_MAX, U64_MAX, binary, flag, integer, shown

__all__ = ["announcement_fields", "read_announcement"]

RUN_SIZE = 16
_KINDS = frozenset(RealtimeKind)


def announcement_fields(told: Announcement) -> dict[str, Any]:
    """Fields of an INTEREST; what is not said is left out."""
    fields: dict[str, Any] = {"run": told.run, "version": told.version}
    if told.rows:
        fields["wants"] = [[int(want.kind), want.pattern, want.group, count] for want, count in told.rows]
    if told.pieces:
        fields |= {"piece": told.piece, "pieces": told.pieces}
    return fields | ({"ask": True} if told.ask else {})


def read_announcement(fields: Mapping[str, Any]) -> Announcement:
    """The announcement in the fields of an INTEREST. Raises MalformedFrame or InvalidRequest."""
    run, rows, pieces = binary(fields, "run", RUN_SIZE), fields.get("wants", []), integer(fields, "pieces", 0, 0, U32_MAX)
    if run is None:
        raise MalformedFrame("an INTEREST does not say which run of its node it is of")
    if not isinstance(rows, list):
        raise MalformedFrame(f"wants of an INTEREST are no list: {shown(rows)}")
    return Announcement(
        run,
        integer(fields, "version", None, 0, U64_MAX),
        tuple(map(_row, rows)),
        integer(fields, "piece", 0, 0, max(0, pieces - 1)),
        pieces,
        flag(fields, "ask"),
    )


def _row(row: object) -> tuple[Want, int]:
    match row:
        case [int(kind), str(pattern), str(group), int(count)] if kind in _KINDS and 0 <= count <= U32_MAX:
            return Want(RealtimeKind(kind), pattern, group), count
    raise MalformedFrame(f"a want of an INTEREST is [kind, pattern, group, count]: {shown(row)}")
