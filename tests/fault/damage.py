"""Damage to the files of a node that is stopped, from a seed; and who starts a node again that has ended."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.processes import Node, wait_until
from zmqbroker.storage.run_record import read_run, write_run

__all__ = ["cut", "damage", "files_of", "flip", "has_died", "supervised", "used_bytes"]

#: Exit statuses after which a supervisor leaves a node alone (docs/OPERATIONS.md).
FINAL = {0, 1, 2, 6}
STARTS_MAX = 6


def files_of(directory: Path) -> list[Path]:
    """All files of a data directory but its lock, in order."""
    return sorted(path for path in directory.rglob("*") if path.is_file() and path.name != "LOCK")


def used_bytes(path: Path) -> int:
    """Where the zeros begin that a file ends with."""
    data = path.read_bytes()
    return len(data.rstrip(b"\0"))


def flip(path: Path, offset: int, bit: int = 0) -> str:
    """Flip one bit; what was done."""
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1 << bit]))
    return f"bit {bit} of byte {offset} of {path.name} flipped"


def cut(path: Path, size: int) -> str:
    """Cut the tail off; what was done."""
    whole = path.stat().st_size
    os.truncate(path, size)
    return f"{path.name} cut from {whole} to {size} bytes"


def damage(chance: random.Random, directory: Path) -> str:
    """Flip a random bit, or cut the tail, of a random file that is not empty; what was done."""
    path = chance.choice([path for path in files_of(directory) if path.stat().st_size])
    size, used = path.stat().st_size, used_bytes(path)
    if chance.random() < 0.3:
        return cut(path, chance.randrange(max(used, 1)))
    # Mostly where something is written: most of a segment is not.
    return flip(path, chance.randrange(used if used and chance.random() < 0.9 else size), chance.randrange(8))


def has_died(node: Node) -> None:
    """The machine of a node that was killed has died, and starts again: another boot."""
    record = read_run(node.directory)
    assert record is not None
    write_run(node.directory, replace(record, boot_id="another boot"))


def supervised(node: Node, condition: Callable[[], Any], timeout_s: float, what: str) -> Any:
    """Wait for `condition` while the node is started again whenever it ends, as a supervisor would."""
    starts = 0

    def look() -> Any:
        nonlocal starts
        assert node.process is not None
        status = node.process.poll()
        if status is not None:
            starts += 1
            assert status not in FINAL, f"{node.name} ended with {status}\n{node.log()[-3000:]}"
            assert starts < STARTS_MAX, f"{node.name} ends again and again\n{node.log()[-3000:]}"
            node.start()
        return condition()

    return wait_until(look, timeout_s, what)
