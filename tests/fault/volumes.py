"""Small file systems for tests of full disks: mounted for the test, and unmounted whatever happens. They need root."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from errno import ENOSPC
from functools import cache
from pathlib import Path

__all__ = ["fill", "free_bytes", "small_volume", "why_not"]

_FILLER = "filler"


def _run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60, check=False)


def _unmount(place: Path) -> None:
    """Whoever still uses it keeps what is open, but the name is free."""
    ended = _run("umount", str(place))
    if ended.returncode:
        ended = _run("umount", "--lazy", str(place))
    assert ended.returncode == 0, ended.stderr


@cache
def why_not(kind: str) -> str:
    """Why no file system of this kind can be mounted here; empty when it can."""
    with tempfile.TemporaryDirectory() as directory:
        try:
            with small_volume(Path(directory, "trial"), 16 << 20, kind):
                return ""
        except (AssertionError, OSError) as error:
            return f"cannot mount a small {kind}: {error}".strip()


@contextmanager
def small_volume(place: Path, size_bytes: int, kind: str) -> Iterator[None]:
    """A file system of its own at `place`, of kind `tmpfs` or `ext4` (in a file beside it)."""
    place.mkdir(parents=True)
    if kind == "tmpfs":
        ended = _run("mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(place))
    else:
        image = place.with_name(f"{place.name}.img")
        with image.open("wb") as file:
            file.truncate(size_bytes)
        made = _run("mkfs.ext4", "-q", "-F", "-m", "0", str(image))
        assert made.returncode == 0, made.stderr
        ended = _run("mount", "-o", "loop", str(image), str(place))
    assert ended.returncode == 0, ended.stderr
    try:
        yield
    finally:
        _unmount(place)


def free_bytes(place: Path) -> int:
    """What may still be written there."""
    found = os.statvfs(place)
    return found.f_bavail * found.f_frsize


def fill(place: Path, leave_bytes: int) -> Path:
    """Somebody else's file takes all but so much of the room; removing it gives the room back."""
    filler = place / _FILLER
    with filler.open("wb") as file:
        size, step = 0, 1 << 20
        while step >= 4096:
            # Not all at once: the file system takes room for itself on the way.
            if free_bytes(place) - step < leave_bytes or not _grow(file.fileno(), size, step):
                step //= 2
            else:
                size += step
    return filler


def _grow(descriptor: int, size: int, step: int) -> bool:
    try:
        os.posix_fallocate(descriptor, size, step)
    except OSError as error:
        if error.errno != ENOSPC:
            raise
        return False
    return True
