"""`zmqbroker backup`: the state of a running cluster, with all messages that wait, in one file."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import click

from zmqbroker.cli.exits import Exit
from zmqbroker.cli.options import json_option, timeout_option, url_option
from zmqbroker.cli.output import emit_json, emit_line
from zmqbroker.errors import ConfigError
from zmqbroker.wire.backup import BackupCheck, BackupHead

__all__ = ["backup", "read_back"]

#: The node copies its state before it answers for the first time.
_TIMEOUT_MS = 120_000
_READ_BYTES = 1 << 20

Progress = Callable[[int, int], None]


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--node", default="", help="Take it from this node; from the first of the URL that answers unless given.")
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@url_option
@timeout_option(_TIMEOUT_MS)
@json_option
def backup(file: Path, node: str, force: bool, url: str, timeout_ms: int, as_json: bool) -> int:
    """Write the state of the cluster, with all messages that are not finished, to FILE while it works.

    It holds all that was confirmed before this command began. FILE appears when it is complete, on the disk, and was read back;
    until then it is FILE.part. `zmqbroker restore` makes a new cluster of it.
    """
    if file.exists() and not force:
        raise ConfigError((f"{file} exists already: give another name, or --force to replace it",))
    part = file.with_name(f"{file.name}.part")
    started = time.monotonic()
    try:
        with part.open("wb") as out, _progress() as show:
            for size, data in _fetch(url, node, timeout_ms):
                out.write(data)
                show(len(data), size)
            out.flush()
            os.fsync(out.fileno())
        head = read_back(part)
        os.rename(part, file)
        _sync_directory(file.absolute().parent)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise
    _say(file, head, round((time.monotonic() - started) * 1000), as_json)
    return Exit.DONE


def _fetch(url: str, node: str, timeout_ms: int) -> Iterator[tuple[int, bytes]]:
    from zmqbroker.client.backup import fetch_backup  # only now, so that `--help` does not wait for ZeroMQ

    for chunk in fetch_backup(url, node, timeout_ms):
        yield chunk.size, chunk.data


def read_back(path: Path) -> BackupHead:
    """See that every byte of a backup fits its checksums; what it is of. Raises Corruption, OSError."""
    check = BackupCheck(str(path))
    with path.open("rb") as file:
        while data := file.read(_READ_BYTES):
            check.feed(data)
    return check.finish()


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _progress() -> Iterator[Progress]:
    """Show how far it is, to a person at a terminal only."""
    if not sys.stderr.isatty():
        yield lambda done, size: None
        return
    with click.progressbar(length=1, label="backup", file=sys.stderr) as bar:

        def show(done: int, size: int) -> None:
            bar.length = size
            bar.update(done)

        yield show


def _say(file: Path, head: BackupHead, took_ms: int, as_json: bool) -> None:
    size = file.stat().st_size
    if as_json:
        groups = [{"group": group.number, "index": group.index, "term": group.term} for group in head.groups]
        told = {"file": str(file), "bytes": size, "cluster": head.cluster_name, "cluster_uid": head.cluster_uid.hex()}
        emit_json({**told, "volume": head.volume, "node": head.node, "groups": groups, "took_ms": took_ms})
        return
    where = ", ".join(f"index {group.index}" for group in head.groups)
    emit_line(f"{file}: {size} bytes, cluster {head.cluster_name} as of {where}, taken from {head.node} in {took_ms} ms")
