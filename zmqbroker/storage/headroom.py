"""Room on the volume that is kept for the store: a file that is given up when the volume is full.

Acks and deletions free room only after they are stored, and to store them takes a little room as well. It is not for what makes
the store larger. What it was given up for is rarely much, so the file is made again when the volume has room for several.
"""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["HEADROOM_BYTES", "Headroom"]

#: Enough for thousands of changes in one transaction; and of a small volume a share.
HEADROOM_BYTES = 16 << 20
_SHARE = 64
#: It is made when so many times its size is free, so that it is not what fills the volume.
_FREE_TIMES = 4
_STEP = 4096


class Headroom:
    """The file at `path`, whose directory exists. Raises nothing: without it the store does what it can."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._held = path.exists()

    def restore(self) -> None:
        """Make the file if it is not there and the volume has room."""
        if self._held:
            return
        try:
            volume = os.statvfs(self._path.parent)
            size = min(HEADROOM_BYTES, volume.f_frsize * volume.f_blocks // _SHARE) // _STEP * _STEP
            if size and volume.f_frsize * volume.f_bavail >= _FREE_TIMES * size:
                self._make(size)
        except OSError:
            self._path.unlink(missing_ok=True)

    def _make(self, size: int) -> None:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, size)
        finally:
            os.close(descriptor)
        self._held = True

    def release(self) -> bool:
        """Give the room up; False when there is none to give."""
        held, self._held = self._held, False
        try:
            self._path.unlink(missing_ok=True)
        except OSError:
            return False
        return held
