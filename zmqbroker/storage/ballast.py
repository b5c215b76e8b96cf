"""Room that a start needs and a full disk would not give: a file that is given up for it and made again.

A node must be able to start on a full disk, since only what is consumed there frees space, and a node that ends at once would
only be started again. What a start writes is little (small files that are replaced, a page or two of the store), but it needs
blocks that somebody else may have taken: these are kept in `ballast`. Where even they are gone the start has to wait. Source:
DESIGN §5, docs/STORAGE.md §1.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from zmqbroker.errors import NoRoom
from zmqbroker.storage.disk import OS_DISK, lacks_room

__all__ = ["BALLAST_BYTES", "BALLAST_NAME", "START_BYTES", "give_up_ballast", "keep_ballast", "room_to_start"]

BALLAST_NAME = "ballast"
#: Several times what a start writes, and nothing beside the smallest log.
BALLAST_BYTES = 1 << 20
#: Least room to start with: a new store has 32 KiB, and each small file a few blocks while it is replaced.
START_BYTES = 128 << 10


#: What the ballast grows by.
_STEP_BYTES = 64 << 10

FreeBytes = Callable[[Path], int]


def _free_bytes(directory: Path) -> int:
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize


def room_to_start(directory: Path, free_bytes: FreeBytes = _free_bytes) -> None:
    """Give the ballast up if little else is free. Raises NoRoom when that does not help, and OSError."""
    if free_bytes(directory) >= BALLAST_BYTES:
        return
    give_up_ballast(directory)
    if (free := free_bytes(directory)) < START_BYTES:
        raise NoRoom(f"{directory}: the disk is full: {free} bytes are free, a start needs {START_BYTES}")


def give_up_ballast(directory: Path) -> None:
    """Free what was kept. Raises OSError."""
    with suppress(FileNotFoundError):
        OS_DISK.unlink(directory / BALLAST_NAME)


def keep_ballast(directory: Path, free_bytes: FreeBytes = _free_bytes) -> None:
    """Have as much of the ballast as there is room for now. Raises OSError for anything but a full disk."""
    path = directory / BALLAST_NAME
    there = path.exists()
    size = path.stat().st_size if there else 0
    wanted = min(BALLAST_BYTES, (size + free_bytes(directory)) // _STEP_BYTES * _STEP_BYTES)
    if wanted <= size:
        return
    try:
        descriptor = OS_DISK.open(path) if there else OS_DISK.create(path)
        try:
            OS_DISK.allocate(descriptor, wanted)
        finally:
            OS_DISK.close(descriptor)
    except OSError as error:
        if not lacks_room(error):
            raise
