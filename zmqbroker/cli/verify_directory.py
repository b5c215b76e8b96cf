"""`zmqbroker verify`: whether a stopped data directory, or a backup, is whole. `cluster verify` asks running nodes."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from zmqbroker.cli.exits import Exit
from zmqbroker.cli.options import json_option
from zmqbroker.cli.output import emit_json, emit_line, emit_table, note

if TYPE_CHECKING:
    from zmqbroker.server.verifying import Part

__all__ = ["verify"]

#: A badly damaged disk has more faults than anybody reads.
_SHOWN_MAX = 100


@click.command()
@click.argument("path", type=click.Path(path_type=Path, exists=True))
@json_option
def verify(path: Path, as_json: bool) -> int:
    """Check the data directory PATH of a node that does not run, or the backup in the file PATH. Nothing is changed.

    Every record of the log, every stored value and the body of every message that waits is read. Ends with status 6 when
    something is damaged. A torn end of the log, which a power cut leaves and a start cuts off, is no damage.
    """
    return _verify_backup(path, as_json) if path.is_file() else _verify_directory(path, as_json)


def _verify_directory(path: Path, as_json: bool) -> int:
    from zmqbroker.server.verifying import verify_directory  # only now: the server's packages are needed
    from zmqbroker.storage.stopped import StoppedDirectory

    with StoppedDirectory(path) as directory:
        report = verify_directory(directory)
    faults = report.faults
    if as_json:
        parts = [{**asdict(part), "faults": part.faults[:_SHOWN_MAX]} for part in report.parts]
        emit_json({"path": str(path), "ok": not faults, "fault_count": len(faults), "parts": parts})
    else:
        rows = [(part.name, part.checked, _verdict(part)) for part in report.parts]
        emit_table(("part", "checked", "verdict"), rows)
        for place in report.torn:
            emit_line(f"torn, never acknowledged, cut off at the next start: {place}")
    for fault in faults[:_SHOWN_MAX]:
        note(f"zmqbroker: damaged: {fault}")
    if not faults:
        return Exit.DONE
    note(f"zmqbroker: {path}: {len(faults)} {'faults' if len(faults) > 1 else 'fault'}")
    return Exit.DAMAGED


def _verdict(part: Part) -> str:
    if part.faults:
        return f"damaged: {len(part.faults)}"
    if not part.checked:
        return "not looked at"
    return "ok, torn end" if part.torn else "ok"


def _verify_backup(path: Path, as_json: bool) -> int:
    from zmqbroker.server.restoring import check_backup

    backup = check_backup(path)
    head, depth = backup.head, sum(backup.messages.values())
    if as_json:
        index = head.groups[0].index
        emit_json({"path": str(path), "ok": True, "cluster": head.cluster_name, "index": index, "messages": backup.messages})
    else:
        emit_line(f"{path}: a whole backup of cluster {head.cluster_name} as of index {head.groups[0].index}, {depth} messages")
    return Exit.DONE
