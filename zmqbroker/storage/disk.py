"""The file operations that the log and the identity need: an interface, and the operating system behind it.

The seam at which tests and the simulator put a disk of their own. `OsDisk` alone in this package calls the operating system for
them. It decides nothing: no order, no retry, no repair, and every refusal goes up as the OSError that it is.

What a caller may rely on is what POSIX says: a write is in the page cache until fdatasync or fsync of its file returns, a name
until `sync_directory` returns, and a rename happens whole or not at all.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

__all__ = ["OS_DISK", "Disk", "OsDisk", "lacks_room", "read_all", "write_all"]

_BUFFERS_MAX = 1024  # IOV_MAX of Linux
_FALLOC_FL_KEEP_SIZE, _FALLOC_FL_ZERO_RANGE = 0x01, 0x10  # linux/falloc.h
#: A file system, or a kernel, that cannot zero a range in place.
_CANNOT_ZERO = (errno.EOPNOTSUPP, errno.ENOSYS)


class Disk(Protocol):
    """Files by path and, once open, by descriptor. Every method raises OSError."""

    def open(self, path: Path) -> int:
        """Open an existing file for reading and writing; returns its descriptor, 0 or more."""
        ...

    def create(self, path: Path) -> int:
        """Make and open an empty file. Raises FileExistsError when the name is taken."""
        ...

    def close(self, descriptor: int) -> None:
        """Give up a descriptor; says nothing about durability."""
        ...

    def size(self, descriptor: int) -> int:
        """Bytes from the file's start to its end."""
        ...

    def allocate(self, descriptor: int, size: int) -> None:
        """Make the file at least `size` bytes long, with room on the disk for all of them; what is new reads as zeros."""
        ...

    def zero(self, descriptor: int, size: int) -> None:
        """Make a file of `size` bytes read as zeros, with room on the disk for all; after an error it holds anything."""
        ...

    def pread(self, descriptor: int, size: int, offset: int) -> bytes:
        """Up to `size` bytes from `offset`; may be fewer, and is empty only at the end of the file."""
        ...

    def pwritev(self, descriptor: int, buffers: Sequence[bytes | memoryview], offset: int) -> int:
        """Write at most 1,024 `buffers` one after the other at `offset`; returns how many bytes, maybe fewer than all."""
        ...

    def fdatasync(self, descriptor: int) -> None:
        """Make the file's bytes durable. After an error its unsynced pages may be lost and look clean: never call it again."""
        ...

    def fsync(self, descriptor: int) -> None:
        """As `fdatasync`, with the file's times."""
        ...

    def names(self, directory: Path) -> list[str]:
        """Names in a directory, in no order."""
        ...

    def make_directory(self, path: Path) -> None:
        """Make a directory and its parents, if they are not there. Raises FileExistsError when a file is in the way."""
        ...

    def rename(self, source: Path, target: Path) -> None:
        """Give a file another name, in the place of the file that has it."""
        ...

    def unlink(self, path: Path) -> None:
        """Take a file's name away. Raises FileNotFoundError."""
        ...

    def sync_directory(self, path: Path) -> None:
        """Make the names in a directory durable."""
        ...


class OsDisk:
    """The operating system's files. Stateless; for any thread."""

    def open(self, path: Path) -> int:
        """See `Disk`."""
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def create(self, path: Path) -> int:
        """See `Disk`; only the owner may read or write the file."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def close(self, descriptor: int) -> None:
        """See `Disk`."""
        os.close(descriptor)

    def size(self, descriptor: int) -> int:
        """See `Disk`."""
        return os.fstat(descriptor).st_size

    def allocate(self, descriptor: int, size: int) -> None:
        """See `Disk`."""
        os.posix_fallocate(descriptor, 0, size)

    def zero(self, descriptor: int, size: int) -> None:
        """See `Disk`; in place, so that the file keeps its blocks, where the file system can."""
        try:
            _zero_range(descriptor, size)
        except OSError as error:
            if error.errno not in _CANNOT_ZERO:
                raise
            os.ftruncate(descriptor, 0)
            os.posix_fallocate(descriptor, 0, size)

    def pread(self, descriptor: int, size: int, offset: int) -> bytes:
        """See `Disk`."""
        return os.pread(descriptor, size, offset)

    def pwritev(self, descriptor: int, buffers: Sequence[bytes | memoryview], offset: int) -> int:
        """See `Disk`."""
        return os.pwritev(descriptor, buffers, offset)

    def fdatasync(self, descriptor: int) -> None:
        """See `Disk`."""
        os.fdatasync(descriptor)

    def fsync(self, descriptor: int) -> None:
        """See `Disk`."""
        os.fsync(descriptor)

    def names(self, directory: Path) -> list[str]:
        """See `Disk`."""
        return os.listdir(directory)

    def make_directory(self, path: Path) -> None:
        """See `Disk`."""
        path.mkdir(parents=True, exist_ok=True)

    def rename(self, source: Path, target: Path) -> None:
        """See `Disk`."""
        os.rename(source, target)

    def unlink(self, path: Path) -> None:
        """See `Disk`."""
        os.unlink(path)

    def sync_directory(self, path: Path) -> None:
        """See `Disk`."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _zero_range(descriptor: int, size: int) -> None:
    """fallocate(2), which Python does not have."""
    # fallocate64 takes 64-bit offsets everywhere; a C library without it has them in fallocate.
    library = ctypes.CDLL(None, use_errno=True)
    call = getattr(library, "fallocate64", None) or library.fallocate
    call.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    while call(descriptor, _FALLOC_FL_KEEP_SIZE | _FALLOC_FL_ZERO_RANGE, 0, size):
        code = ctypes.get_errno()
        if code != errno.EINTR:
            raise OSError(code, os.strerror(code))


#: What everything uses that was not given another disk.
OS_DISK = OsDisk()


def lacks_room(error: OSError) -> bool:
    """Whether an error says that the disk, or what its owner may use of it, is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def read_all(disk: Disk, descriptor: int, size: int, offset: int) -> bytes:
    """Up to `size` bytes from `offset`, however little one call gives; fewer only at the end of the file."""
    pieces = []
    while size > 0 and (piece := disk.pread(descriptor, size, offset)):
        pieces.append(piece)
        offset, size = offset + len(piece), size - len(piece)
    return b"".join(pieces)


def write_all(disk: Disk, descriptor: int, buffers: Sequence[bytes], offset: int) -> None:
    """Write all of `buffers` at `offset`, however many there are and however little one call takes."""
    for start in range(0, len(buffers), _BUFFERS_MAX):
        chunk: list[bytes | memoryview] = list(buffers[start : start + _BUFFERS_MAX])
        while chunk:
            written = disk.pwritev(descriptor, chunk, offset)
            offset += written
            chunk = _without(chunk, written)


def _without(buffers: Iterable[bytes | memoryview], written: int) -> list[bytes | memoryview]:
    """What is left of `buffers` after the first `written` bytes."""
    rest: list[bytes | memoryview] = []
    for buffer in buffers:
        if written >= len(buffer):
            written -= len(buffer)
        else:
            rest.append(memoryview(buffer)[written:])
            written = 0
    return rest
