"""What a Raft core reads of its log: the durable part only. `storage` provides it; a list of entries will do in a test."""

from __future__ import annotations

from typing import Protocol

from zmqbroker.raft.messages import Entry, HardState, Snapshot

__all__ = ["LogView"]


class LogView(Protocol):
    """The durable log of one group, as the core sees it between two calls. Indexes count from 1."""

    def hard_state(self) -> HardState:
        """The last durable hard state; `HardState()` for a new group."""
        ...

    def first_index(self) -> int:
        """The lowest index still held; last_index + 1 when the log is empty."""
        ...

    def last_index(self) -> int:
        """The highest durable index; 0 for a new group."""
        ...

    def term(self, index: int) -> int:
        """Term of the entry at `index`; 0 for index 0. `index` first_index - 1 is answered too.

        Raises `Compacted` below that; never asked above last_index.
        """
        ...

    def entries(self, low: int, high: int, size_max: int) -> tuple[Entry, ...]:
        """Entries low..high-1, cut after the first that brings the payloads to `size_max` bytes or more (so at least one).

        Raises `Compacted` when `low` is below first_index.
        """
        ...

    def snapshot(self) -> Snapshot | None:
        """The newest state that can be sent to a node which needs dropped entries; None while there is none to send."""
        ...
