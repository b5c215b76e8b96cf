"""What happened in a run, as a hash that two runs can be compared by, and as text when somebody wants to read it.

Every event adds one record of six integers. Equal seeds give equal records on every machine and every Python, so one digest
tells whether two runs were the same. Nothing in a run depends on the trace.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable
from hashlib import sha256

__all__ = ["Trace"]

#: virtual time in ns, what happened, to which node, term, commit index, last index
_RECORD = struct.Struct("<QIIQQQ")
#: Records are hashed when so many bytes have gathered.
_CHUNK_BYTES = 1 << 16
#: Lines kept for the report of a failure when nobody listens.
_TAIL_LINES = 400


class Trace:
    """A running hash of what happened; with a `sink`, or while `keep` is set, also lines of text."""

    __slots__ = ("_buffer", "_hash", "_sink", "tail", "text")

    def __init__(self, sink: Callable[[str], object] | None = None, *, keep: bool = False) -> None:
        self._buffer = bytearray()
        self._hash = sha256()
        self._sink = sink
        self.text = sink is not None or keep  # ask before a line is put together: it costs more than the event
        self.tail: deque[str] = deque(maxlen=_TAIL_LINES)

    def record(self, time_ns: int, what: int, node: int, term: int, commit_index: int, last_index: int) -> None:
        """Add one event."""
        buffer = self._buffer
        buffer += _RECORD.pack(time_ns, what, node, term, commit_index, last_index)
        if len(buffer) >= _CHUNK_BYTES:
            self._hash.update(buffer)
            buffer.clear()

    def line(self, time_ns: int, text: str) -> None:
        """Add one line of text. Lines are no part of the hash."""
        full = f"{time_ns / 1_000_000:12.3f} ms  {text}"
        if self._sink is not None:
            self._sink(full)
        else:
            self.tail.append(full)

    def digest(self) -> str:
        """SHA-256 of all records so far, in hexadecimal."""
        copy = self._hash.copy()
        copy.update(self._buffer)
        return copy.hexdigest()
