"""Deaths of the process by a broken memory map: what a damaged LMDB file does to whoever reads it (SIGBUS, SIGSEGV, SIGABRT).

Such a death leaves no error to catch, but Python's faulthandler can still write a line to a file that is open. So a process
that was killed, or a machine that lost its power, is never taken for a damaged file. Source: docs/STORAGE.md §1.
"""

from __future__ import annotations

import faulthandler
from pathlib import Path
from typing import IO

__all__ = ["CRASHES_MAX", "CRASHES_NAME", "count_crashes", "forget_crashes", "watch_crashes"]

#: File name in a data directory.
CRASHES_NAME = "crashes"
#: So many in a row, without a flush of the store between them, are damage.
CRASHES_MAX = 2

_MARK = b"Fatal Python error"


def count_crashes(directory: Path) -> int:
    """How often the process died so since the last `forget_crashes`. Raises OSError."""
    try:
        return (directory / CRASHES_NAME).read_bytes().count(_MARK)
    except FileNotFoundError:
        return 0


def watch_crashes(directory: Path) -> IO[bytes]:
    """Note the next one; the caller keeps the file open, and disables faulthandler before it closes it. Raises OSError."""
    file = (directory / CRASHES_NAME).open("ab")
    faulthandler.enable(file, all_threads=False)
    return file


def forget_crashes(directory: Path) -> None:
    """The store was read and written: earlier deaths had another reason. Raises OSError."""
    path = directory / CRASHES_NAME
    if path.exists() and path.stat().st_size:
        with path.open("r+b") as file:
            file.truncate(0)
