"""Lets the page cache go of what the log has left behind, so that a log that grows does not take all memory there is.

A backlog fills the page cache with pages that nobody asks for, and each page of the log is then another page of memory: one
that the kernel has to find, and that a virtual machine has to be given first (bench/README.md, "Levers"). Where older segments
are let go of, the new ones take over their pages. They are written back before, a step at a time, so that dirty pages do not
pile up behind the writer.

It promises nothing and fails nothing: no byte is durable because of it, what the disk does not take stays in memory, and a
file that is gone is passed over. It opens files of its own: an error of writing is told once per open file, and the log's own
`fdatasync` must be told (errseq_t in the kernel's documentation).
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import Full, Queue

__all__ = ["STEP_BYTES", "WAITING_MAX", "DropBehind", "let_go"]

#: Written back and waited for in one go: a few milliseconds of a disk, for which others' requests wait.
STEP_BYTES = 4 << 20
#: Segments that wait for the thread. When the disk is so far behind, the kernel decides what stays.
WAITING_MAX = 1024
_WAIT_BEFORE, _WRITE, _WAIT_AFTER = 1, 2, 4  # linux/fs.h


def let_go(path: Path, closing: threading.Event) -> None:
    """Write back what of a file is dirty and drop its pages, in steps, until `closing` is set. Raises OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        for offset in range(0, os.fstat(descriptor).st_size, STEP_BYTES):
            if closing.is_set():
                return
            _write_back(descriptor, offset, STEP_BYTES)
            os.posix_fadvise(descriptor, offset, STEP_BYTES, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def _write_back(descriptor: int, offset: int, size: int) -> None:
    """sync_file_range(2), which Python does not have: the pages only, no metadata and no flush of the disk's own cache."""
    call = ctypes.CDLL(None, use_errno=True).sync_file_range
    call.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    if call(descriptor, offset, size, _WAIT_BEFORE | _WRITE | _WAIT_AFTER):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


class DropBehind:
    """Keeps the newest `kept_segments` that were left in the page cache, and lets go of older ones on a thread of its own."""

    def __init__(self, kept_segments: int, let_go: Callable[[Path, threading.Event], object] = let_go) -> None:
        self._kept_segments, self._let_go = kept_segments, let_go
        self._left: deque[Path] = deque()  # oldest first, at most _kept_segments
        self._queue: Queue[Path | None] = Queue(WAITING_MAX)  # None wakes the thread to end
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="drop-behind", daemon=True)
        self._thread.start()

    def left(self, path: Path) -> None:
        """A segment is complete, and synced where the log syncs: never waits. For the thread that writes the log."""
        self._left.append(path)
        if len(self._left) > self._kept_segments:
            with suppress(Full):
                self._queue.put_nowait(self._left.popleft())

    def close(self) -> None:
        """End the thread after its step; what waits is left to the kernel."""
        self._closing.set()
        with suppress(Full):
            self._queue.put_nowait(None)
        self._thread.join()

    def _work(self) -> None:
        while (path := self._queue.get()) is not None and not self._closing.is_set():
            with suppress(OSError):  # gone or recycled meanwhile, or the disk refuses: then memory has what the disk has not
                self._let_go(path, self._closing)
