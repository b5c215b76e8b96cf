"""What a node's directory says of the runs before: whether the last one stopped in order, and on which boot of the machine.

`run.json` is written before a run's first write, with the mark of a clean stop taken away, and again with the mark when all
that the run wrote is durable. A directory without the mark and of another boot belonged to a machine that died: what was never
synced may be gone. Its absence says nothing: the directory is new, or older than this file. Source: docs/STORAGE.md §1.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path

from zmqbroker.errors import DataDirectoryError
from zmqbroker.storage.disk import OS_DISK, Disk
from zmqbroker.storage.documents import read_value, write_document

__all__ = ["RUN_NAME", "RunRecord", "boot_id", "next_run", "read_run", "sync_tree", "write_run"]

#: File name in a data directory.
RUN_NAME = "run.json"

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(slots=True, frozen=True, kw_only=True)
class RunRecord:
    """One run of the node, the last one or that which is under way."""

    boot_id: str  # of the machine while it ran
    clean: bool  # True: it ended in order, and all that it wrote is durable
    durable_unix_ns: int  # what was written before is durable, in both volume modes
    lost_since_unix_ns: int | None = None  # what was written from then until the machine died may be gone; None: nothing

    def died_before(self, boot: str) -> bool:
        """Whether the machine died between this run and the boot that is called `boot`."""
        return not self.clean and self.boot_id != boot


def boot_id(path: Path = _BOOT_ID) -> str:
    """What Linux calls this boot of the machine. Raises DataDirectoryError."""
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise DataDirectoryError(f"{path}: this boot of the machine has no name: {error}") from error


def next_run(previous: RunRecord | None, boot: str, now_unix_ns: int, *, lossy: bool) -> RunRecord:
    """The record of a run that begins now, after `previous`; `lossy`: what that one did not sync may be gone, and counted.

    On the same boot the page cache still holds what was not synced, and a later death of the machine may take it.
    """
    if previous is None:
        return RunRecord(boot_id=boot, clean=False, durable_unix_ns=now_unix_ns)
    undurable = not previous.clean and previous.boot_id == boot
    durable_unix_ns = previous.durable_unix_ns if undurable else now_unix_ns
    lost = previous.durable_unix_ns if lossy else previous.lost_since_unix_ns
    return RunRecord(boot_id=boot, clean=False, durable_unix_ns=durable_unix_ns, lost_since_unix_ns=lost)


def write_run(directory: Path, record: RunRecord, disk: Disk = OS_DISK) -> None:
    """Replace the record of `directory`; durable when this returns. Raises OSError."""
    write_document(directory / RUN_NAME, "run", asdict(record), disk)


def read_run(directory: Path, disk: Disk = OS_DISK) -> RunRecord | None:
    """The record of `directory`, None when there is none. Raises Corruption, DataDirectoryError or OSError."""
    return read_value(directory / RUN_NAME, "run", lambda fields: RunRecord(**fields), disk)


def sync_tree(path: Path) -> None:
    """Make every file below `path`, and every name, durable. Raises OSError."""
    for place, _, names in os.walk(path, topdown=False):
        for name in names:
            descriptor = os.open(os.path.join(place, name), os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        OS_DISK.sync_directory(Path(place))
