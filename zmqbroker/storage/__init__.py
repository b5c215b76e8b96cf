"""Everything a node keeps: the write-ahead log of all groups, the committed state, and the directory they live in.

The shell asks for `LogStore` and `StateStore` (interfaces.py) and gets the durable ones or their memory twins. Formats and
the rules of recovery are in docs/STORAGE.md. This package knows no queues, no network and no event loop.
"""

from __future__ import annotations

from zmqbroker.storage.directory import DataDirectory, raise_file_limit
from zmqbroker.storage.disk import Disk
from zmqbroker.storage.identity import Identity
from zmqbroker.storage.interfaces import LogStore, StateStore, WriteJob
from zmqbroker.storage.lmdb_state import LmdbState
from zmqbroker.storage.memory import MemoryLog, MemoryState
from zmqbroker.storage.segment_log import SegmentLog
from zmqbroker.storage.writer import InlineWriter, LogWriter

__all__ = [
    "DataDirectory",
    "Disk",
    "Identity",
    "InlineWriter",
    "LmdbState",
    "LogStore",
    "LogWriter",
    "MemoryLog",
    "MemoryState",
    "SegmentLog",
    "StateStore",
    "WriteJob",
    "raise_file_limit",
]
