"""The data directory of a node that does not run, for reading alone.

Nothing in it is changed, so that it may be a stale copy, a broken one, or lie on a disk that is mounted read-only. It is held
by a shared lock where there is one to hold: several readers at once are fine, a node is not. What recovery would write stays
in memory (`overlay_disk`).
"""

from __future__ import annotations

import fcntl
import os
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from zmqbroker.errors import DataDirectoryError
from zmqbroker.storage.disk import write_all
from zmqbroker.storage.identity import IDENTITY_NAME, Identity, read_identity
from zmqbroker.storage.interfaces import StateStore
from zmqbroker.storage.lmdb_state import LmdbState
from zmqbroker.storage.log_reader import Flaw
from zmqbroker.storage.memory import MemoryState
from zmqbroker.storage.overlay_disk import OverlayDisk
from zmqbroker.storage.segment_log import SegmentLog

__all__ = ["StoppedDirectory"]


class StoppedDirectory:
    """A directory that is held. Use it inside `with`; what `open_log` and `open_state` gave is closed with it."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Hold `path`. Raises DataDirectoryError when it is none, or in use."""
        self.path = Path(path)
        self._closing = ExitStack()
        if not self.path.is_dir():
            raise DataDirectoryError(f"{self.path}: is no directory")
        try:
            self._hold()
        except OSError as error:
            raise DataDirectoryError(f"{self.path}: cannot be read: {error}") from error

    def _hold(self) -> None:
        try:
            descriptor = os.open(self.path / "LOCK", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return  # no node has ever run here, or it is a copy
        self._closing.callback(os.close, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            self._closing.close()
            raise DataDirectoryError(f"{self.path}: in use by a node (pid {holder}): stop it first") from error

    @property
    def log_path(self) -> Path:
        """Where the log's files are."""
        return self.path / "log"

    def identity(self) -> Identity:
        """Who the directory belongs to. Raises DataDirectoryError when there is none, Corruption when it is damaged."""
        try:
            with OverlayDisk() as disk:
                found = read_identity(self.path, disk)
        except OSError as error:
            raise DataDirectoryError(f"{self.path / IDENTITY_NAME}: cannot be read: {error}") from error
        if found is None:
            raise DataDirectoryError(f"{self.path}: is no node's data directory: {IDENTITY_NAME} is missing")
        return found

    def open_log(self, flaw: Flaw | None = None) -> SegmentLog:
        """The log as a start would leave it; with `flaw`, the first there is, only what comes before it.

        Raises Corruption as a start would, StorageError.
        """
        disk = self._closing.enter_context(OverlayDisk())
        if flaw is not None:
            self._end_at(flaw, disk)
        log = SegmentLog.open(self.log_path, sync=False, cache_bytes_max=0, disk=disk)
        self._closing.callback(log.close)
        return log

    def _end_at(self, flaw: Flaw, disk: OverlayDisk) -> None:
        """Let nothing be there, on `disk`, from a flaw on."""
        for name in disk.names(self.log_path):
            path = self.log_path / name
            if path.suffix == flaw.path.suffix and (len(name), name) >= (len(flaw.path.name), flaw.path.name):
                if path == flaw.path and flaw.offset:
                    descriptor = disk.open(path)
                    write_all(disk, descriptor, [bytes(disk.size(descriptor) - flaw.offset)], flaw.offset)
                    disk.close(descriptor)
                else:
                    disk.unlink(path)

    def open_state(self) -> StateStore:
        """The stored state; empty when nothing was ever stored. Raises Corruption, StorageError."""
        path = self.path / "state"
        if not path.exists():
            return MemoryState()
        state = LmdbState.open_read_only(path)
        self._closing.callback(state.close)
        return state

    def __enter__(self) -> StoppedDirectory:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._closing.close()
