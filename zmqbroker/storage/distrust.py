"""Data that is not to be trusted any more: noted, and moved aside when a majority works without it.

The note (`recovering.json`) is written first and says why, and which uid the node has from then on: from the note on it is
nobody in the cluster, whatever `identity.json` says. When the cluster has given the new uid a place, the data moves to
`stale-<old uid>/` and the directory gets its new identity; until then nothing is moved, and nothing is deleted. A start after a
crash between any two steps does the rest. Source: docs/STORAGE.md §1, DESIGN §4 and §5.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from zmqbroker.errors import Corruption
from zmqbroker.storage.crashes import CRASHES_NAME
from zmqbroker.storage.disk import OS_DISK, Disk
from zmqbroker.storage.documents import read_value, write_document, write_file
from zmqbroker.storage.identity import DATA_NAMES, IDENTITY_NAME, NEEDED_NAMES, Identity, write_identity
from zmqbroker.storage.run_record import RUN_NAME

__all__ = [
    "NOTE_NAME",
    "Cause",
    "Distrust",
    "delete_stale",
    "disposable",
    "forget_note",
    "new_note",
    "read_note",
    "set_aside",
    "stale_names",
]

#: File name of the note in a data directory.
NOTE_NAME = "recovering.json"
#: What the note is called beside the data that was moved aside.
WHY_NAME = "why.json"

_STALE = "stale-"
_UID_SIZE = 16


class Cause(StrEnum):
    """Why data is not to be trusted."""

    DAMAGED = "damaged"  # something that may have been acknowledged cannot be read
    DIED = "died"  # the machine died, and an ephemeral volume may lack what was acknowledged


@dataclass(slots=True, frozen=True, kw_only=True)
class Distrust:
    """Why, and what comes next."""

    cause: Cause
    reason: str  # a sentence that names the file
    node_uid: bytes  # 16 random bytes: what this node is called from now on
    stale: str  # name of the directory that the data is to move to
    noted_unix_ns: int


def new_note(directory: Path, cause: Cause, reason: str, old_uid: bytes | None, now_unix_ns: int) -> Distrust:
    """Note that the data of `directory` is not to be trusted; durable when this returns. Raises OSError."""
    uid = os.urandom(_UID_SIZE)
    name = old_uid.hex() if old_uid is not None else f"unknown-{uid.hex()}"
    note = Distrust(cause=cause, reason=reason, node_uid=uid, stale=_STALE + name, noted_unix_ns=now_unix_ns)
    fields = {
        "cause": note.cause.value,
        "reason": note.reason,
        "node_uid": note.node_uid.hex(),
        "stale": note.stale,
        "noted_unix_ns": note.noted_unix_ns,
    }
    write_document(directory / NOTE_NAME, "distrust", fields)
    return note


def read_note(directory: Path, name: str = NOTE_NAME) -> Distrust | None:
    """The note in `directory`, None when there is none. Raises Corruption, DataDirectoryError or OSError."""
    return read_value(directory / name, "distrust", _from_fields)


def _from_fields(fields: dict[str, Any]) -> Distrust:
    return Distrust(
        cause=Cause(fields["cause"]),
        reason=fields["reason"],
        node_uid=bytes.fromhex(fields["node_uid"]),
        stale=fields["stale"],
        noted_unix_ns=fields["noted_unix_ns"],
    )


def set_aside(directory: Path, note: Distrust, identity: Identity, disk: Disk = OS_DISK) -> None:
    """Move the data aside and make the directory that of `identity`, which has the note's uid; durable when this returns.

    May be called again after a crash at any point. Raises OSError.
    """
    target = directory / note.stale
    disk.make_directory(target)
    present, moved = disk.names(directory), disk.names(target)
    for name in (*DATA_NAMES, RUN_NAME, CRASHES_NAME):
        if name in present and name not in moved:
            disk.rename(directory / name, target / name)
    if IDENTITY_NAME in present:
        # A copy: there is one under its own name at any time, so that a start always knows the cluster.
        write_file(target / IDENTITY_NAME, (directory / IDENTITY_NAME).read_bytes(), disk)
    disk.sync_directory(target)
    for name in NEEDED_NAMES:
        disk.make_directory(directory / name)
    disk.sync_directory(directory)
    write_identity(directory, identity, disk)
    forget_note(directory, note, disk)


def forget_note(directory: Path, note: Distrust, disk: Disk = OS_DISK) -> None:
    """The directory is that of the note's uid now: the note goes to the data that it is about. Raises OSError."""
    disk.make_directory(directory / note.stale)
    disk.rename(directory / NOTE_NAME, directory / note.stale / WHY_NAME)
    disk.sync_directory(directory / note.stale)
    disk.sync_directory(directory)


def stale_names(directory: Path) -> list[str]:
    """The directories that were moved aside. Raises OSError."""
    return sorted(path.name for path in directory.iterdir() if path.name.startswith(_STALE) and path.is_dir())


def disposable(directory: Path) -> list[str]:
    """Those that may go once the node votes again: all but the newest damaged one, which somebody may want to look at.

    One without a note that can be read stays. Raises OSError.
    """
    found: list[tuple[int, str]] = []
    damaged: list[tuple[int, str]] = []
    for name in stale_names(directory):
        try:
            note = read_note(directory / name, WHY_NAME)
        except Corruption:
            continue
        if note is not None:
            (damaged if note.cause is Cause.DAMAGED else found).append((note.noted_unix_ns, name))
    return sorted(name for _, name in found + sorted(damaged)[:-1])


def delete_stale(directory: Path, names: list[str]) -> None:
    """Delete directories that were moved aside. Raises OSError."""
    for name in names:
        shutil.rmtree(directory / name)
