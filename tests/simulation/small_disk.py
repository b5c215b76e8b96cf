"""A disk of its own for a test, and files on it."""

from __future__ import annotations

from pathlib import Path
from random import Random

from tests.simulation.disk import DiskFaults, SimDisk
from zmqbroker.storage.disk import Disk, read_all

__all__ = ["FILE", "ROOT", "content_of", "make", "new_disk"]

ROOT = Path("/")
FILE = ROOT / "file"


def new_disk(seed: int = 1, **faults: float) -> SimDisk:
    """A disk with these faults."""
    return SimDisk(Random(seed), DiskFaults(**faults))


def make(disk: SimDisk, path: Path, content: bytes, *, sync: bool = True) -> int:
    """A file with `content`, durable with its name if `sync`; returns its descriptor."""
    descriptor = disk.create(path)
    assert disk.pwritev(descriptor, [content], 0) == len(content)
    if sync:
        disk.fsync(descriptor)
        disk.sync_directory(path.parent)
    return descriptor


def content_of(disk: Disk, path: Path) -> bytes:
    """All of a file's bytes."""
    descriptor = disk.open(path)
    content = read_all(disk, descriptor, disk.size(descriptor), 0)
    disk.close(descriptor)
    return content
