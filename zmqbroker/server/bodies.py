"""The payloads of committed entries, wherever they are by now."""

from __future__ import annotations

from zmqbroker.errors import Compacted
from zmqbroker.storage.interfaces import LogStore, StateStore

__all__ = ["Bodies"]


class Bodies:
    """Reads from the log or, where an entry has left that, from the store."""

    def __init__(self, log: LogStore, state: StateStore) -> None:
        self._log, self._state = log, state
        self._last: tuple[tuple[int, int], bytes] = ((0, 0), b"")  # what was read last: place, payload

    def read(self, group: int, index: int) -> bytes:
        """The payload of a committed entry. Raises as log and store do.

        The last one is kept: old messages are asked for one after the other, and an entry holds many.
        """
        place, payload = self._last
        if place != (group, index):
            payload = self._read(group, index)
            self._last = (group, index), payload
        return payload

    def is_young(self, group: int, index: int) -> bool:
        """Whether an entry is in memory: to read it is no work for the disk."""
        return self._log.is_young(group, index)

    def _read(self, group: int, index: int) -> bytes:
        try:
            return self._log.read(group, index)
        except Compacted:
            if (body := self._state.body(group, index)) is None:
                raise
            return body
