"""A disk that reads the operating system's files and keeps every change in memory: what is done on it changes nothing.

So recovery can be asked what it would make of a directory, and a log can be opened that nobody may touch. Changed bytes are
kept page by page; unchanged ones are read where they lie. It is as durable as the process: `fsync` and its kind do nothing. The
files must not be changed by anybody else meanwhile. For one thread.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

__all__ = ["OverlayDisk"]

#: Changed bytes are kept in pieces of this size.
_PAGE_SIZE = 64 << 10


class _File:
    """One file: its bytes below, if it has any, and the pages that were changed."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor  # of the file below; -1 for one that was made here
        self.below_size = os.fstat(descriptor).st_size if descriptor >= 0 else 0
        self.size = self.below_size
        self.pages: dict[int, bytearray] = {}

    def page(self, number: int) -> bytes | bytearray:
        """One page as it is now, filled up with zeros behind the end."""
        changed = self.pages.get(number)
        if changed is not None:
            return changed
        start, below = number * _PAGE_SIZE, b""
        while start + len(below) < min(self.below_size, (number + 1) * _PAGE_SIZE):
            piece = os.pread(self.descriptor, _PAGE_SIZE - len(below), start + len(below))
            if not piece:
                break  # it was cut below us
            below += piece
        return below.ljust(_PAGE_SIZE, b"\0")

    def write(self, data: bytes | memoryview, offset: int) -> None:
        """Change bytes, behind the end too."""
        position = 0
        while position < len(data):
            number, within = divmod(offset + position, _PAGE_SIZE)
            page = self.pages.setdefault(number, bytearray(self.page(number)))
            taken = min(_PAGE_SIZE - within, len(data) - position)
            page[within : within + taken] = data[position : position + taken]
            position += taken
        self.size = max(self.size, offset + len(data))

    def close(self) -> None:
        """Close the file below."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


class OverlayDisk:
    """A `Disk`. Use it inside `with`: files below stay open until its end."""

    def __init__(self) -> None:
        self._files: dict[Path, _File] = {}  # by present name: those that were opened, made or renamed here
        self._gone: set[Path] = set()  # names below that do not exist here any more
        self._made: set[Path] = set()  # directories
        self._open: dict[int, _File] = {}  # by the numbers that callers have
        self._all: list[_File] = []  # that have to be closed
        self._next = 0

    def __enter__(self) -> OverlayDisk:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for file in self._all:
            file.close()

    def _file(self, path: Path) -> _File:
        file = self._files.get(path)
        if file is None:
            if path in self._gone:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
            file = self._files[path] = _File(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
            self._all.append(file)
        return file

    def _handle(self, file: _File) -> int:
        number, self._next = self._next, self._next + 1
        self._open[number] = file
        return number

    def open(self, path: Path) -> int:
        """See `Disk`."""
        return self._handle(self._file(path))

    def create(self, path: Path) -> int:
        """See `Disk`."""
        if path in self._files or (path not in self._gone and path.exists()):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        file = self._files[path] = _File(-1)
        return self._handle(file)

    def close(self, descriptor: int) -> None:
        """See `Disk`."""
        del self._open[descriptor]

    def size(self, descriptor: int) -> int:
        """See `Disk`."""
        return self._open[descriptor].size

    def allocate(self, descriptor: int, size: int) -> None:
        """See `Disk`; takes no room."""
        file = self._open[descriptor]
        file.size = max(file.size, size)

    def zero(self, descriptor: int, size: int) -> None:
        """See `Disk`; the file below keeps what it holds."""
        file = self._open[descriptor]
        file.pages.clear()
        file.below_size, file.size = 0, size

    def pread(self, descriptor: int, size: int, offset: int) -> bytes:
        """See `Disk`."""
        file = self._open[descriptor]
        number, within = divmod(offset, _PAGE_SIZE)
        taken = max(0, min(size, _PAGE_SIZE - within, file.size - offset))
        return bytes(file.page(number)[within : within + taken]) if taken else b""

    def pwritev(self, descriptor: int, buffers: Sequence[bytes | memoryview], offset: int) -> int:
        """See `Disk`; changes memory only."""
        start = offset
        for buffer in buffers:
            self._open[descriptor].write(buffer, offset)
            offset += len(buffer)
        return offset - start

    def fdatasync(self, descriptor: int) -> None:
        """Nothing becomes durable here."""

    def fsync(self, descriptor: int) -> None:
        """Nothing becomes durable here."""

    def names(self, directory: Path) -> list[str]:
        """See `Disk`."""
        try:
            below = {name for name in os.listdir(directory) if directory / name not in self._gone}
        except FileNotFoundError:
            if directory not in self._made:
                raise
            below = set()
        return sorted(below | {path.name for path in self._files if path.parent == directory})

    def make_directory(self, path: Path) -> None:
        """See `Disk`."""
        self._made.add(path)

    def rename(self, source: Path, target: Path) -> None:
        """See `Disk`."""
        file = self._file(source)
        del self._files[source]
        self._gone.add(source)
        self._files[target] = file

    def unlink(self, path: Path) -> None:
        """See `Disk`."""
        if path not in self._files and (path in self._gone or not path.exists()):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        self._files.pop(path, None)
        self._gone.add(path)

    def sync_directory(self, path: Path) -> None:
        """Nothing becomes durable here."""
