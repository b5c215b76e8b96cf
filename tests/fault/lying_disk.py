"""A node whose disk says that it has synced, and has not: `python -m tests.fault.lying_disk WHAT`, configured as any node.

For the power-cut test's test of itself. WHAT is `log`: only the log's records are not synced, but new files, names and the
store are; or `all`: nothing is. The native twins go round it: start it with ZMQBROKER_PURE=1.
"""

from __future__ import annotations

import sys
from pathlib import Path

from zmqbroker.server.__main__ import main
from zmqbroker.storage.disk import OsDisk
from zmqbroker.storage.lmdb_state import LmdbState


def _lie(disk: OsDisk, file: int | Path) -> None:
    """A sync that returns at once."""


def _lie_in_all() -> None:
    opened = LmdbState.open

    def open_without_sync(path: Path, *, sync: bool, map_size: int | None = None) -> LmdbState:
        return opened(path, sync=False, map_size=map_size)

    for name in ("fsync", "sync_directory"):
        setattr(OsDisk, name, _lie)
    LmdbState.open = open_without_sync  # type: ignore[method-assign]


if __name__ == "__main__":
    if sys.argv[1] == "all":
        _lie_in_all()
    setattr(OsDisk, "fdatasync", _lie)  # noqa: B010, one way for all of them
    sys.exit(main())
