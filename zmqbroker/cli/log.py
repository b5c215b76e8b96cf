"""`zmqbroker log`: look into the log of a node that does not run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from zmqbroker.cli.exits import Exit
from zmqbroker.cli.options import json_option
from zmqbroker.cli.output import emit_json, emit_line, note

__all__ = ["log"]


@click.group()
def log() -> None:
    """Look into the log of a node that does not run."""


@log.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--group", type=click.IntRange(0), help="Only records of this Raft group.")
@click.option("--from", "first", type=click.IntRange(1), default=1, help="Only entries from this index on.")
@click.option("--to", "last", type=click.IntRange(1), help="Only entries up to this index.")
@json_option
def dump(directory: Path, group: int | None, first: int, last: int | None, as_json: bool) -> int:
    """Print every record of the log in the data directory DIRECTORY, one line each; with --json one document per line.

    Nothing is changed. What is damaged is named, and the dump goes on behind it; then it ends with status 6. A torn end, which
    a power cut leaves and a start cuts off, is named in the same way: `zmqbroker verify` tells the two apart.
    """
    from zmqbroker.server.log_dump import dump_log  # only now: the server's packages are needed
    from zmqbroker.storage.stopped import StoppedDirectory

    flaws = 0
    with StoppedDirectory(directory) as stopped:
        for row in dump_log(stopped, group, first, last):
            flaws += row["kind"] == "damage"
            if as_json:
                emit_json(row)
            else:
                emit_line(_line(row))
    if flaws:
        note(f"zmqbroker: places that cannot be read: {flaws}")
        return Exit.DAMAGED
    return Exit.DONE


def _line(row: dict[str, Any]) -> str:
    """A row for people."""
    if row["kind"] == "damage":
        return f"DAMAGE {row['path']}: offset {row['offset']}: {row['what']}"
    if row["kind"] == "segment":
        groups = "; ".join(
            f"group {base['group']} term {base['term']} vote {base['vote']} commit {base['commit']} "
            f"last {base['last_index']} of term {base['last_term']}"
            for base in row["groups"]
        )
        head = f"segment {row['sequence']}: from lsn {row['first_lsn']}, {row['size']} bytes, uuid {row['uuid']}"
        return f"{head}; {groups or 'no groups'}"
    index = f"index {row['index']}, " if row["index"] else ""
    place = f"lsn {row['lsn']} in {row['segment']} at {row['offset']}"
    what = f"{row['type']} of group {row['group']}, {index}term {row['term']}, {row['size']} bytes"
    return f"{place}: {what}, synced {row['synced_lsn']}: {row['what']}"
