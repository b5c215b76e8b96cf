"""Snapshots between simulated nodes: the canonical state of a machine travels beside its INSTALL_SNAPSHOT message.

The one place that knows how a snapshot is made, carried and installed, to be replaced by the product's way of doing it. A
leader sends what its store holds. A follower makes the state durable before its log's record of it, and a start that finds the
store ahead of the log lets the log begin behind it: then no crash in between can hurt.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.simulation.stores import Image, StateKeeper
from zmqbroker.raft.messages import Entry, Message, MessageType, Snapshot, StorageAppend
from zmqbroker.raft.view import LogView
from zmqbroker.storage.interfaces import LogStore

__all__ = ["Arrivals", "SnapshotView", "images_of", "reconcile"]


class SnapshotView:
    """A log's view that also knows what the store could send."""

    def __init__(
        self, view: LogView, keeper: StateKeeper, group: int, seen: Callable[[int, int, bytes], object] = lambda *_: None
    ) -> None:
        self._seen = seen  # called with index, term and payload of every entry that is read
        self._keeper = keeper
        self._group = group
        self.hard_state = view.hard_state
        self.first_index = view.first_index
        self.last_index = view.last_index
        self.term = view.term
        self._view = view

    def entries(self, low: int, high: int, size_max: int) -> tuple[Entry, ...]:
        """See `LogView`."""
        entries = self._view.entries(low, high, size_max)
        for entry in entries:
            self._seen(entry.index, entry.term, entry.data)
        return entries

    def snapshot(self) -> Snapshot | None:
        """The state in the store."""
        return self._keeper.snapshot(self._group)


def images_of(messages: list[Message], keeper: StateKeeper, group: int, read: Callable[[int], bytes]) -> Image | None:
    """The state that must travel beside these messages."""
    for message in messages:
        if message.type is MessageType.INSTALL_SNAPSHOT:
            return keeper.image(group, read)
    return None


class Arrivals:
    """States that arrived and are not installed yet."""

    def __init__(self) -> None:
        self._arrived: Image | None = None  # the last one
        self._wanted: dict[int, Image] = {}  # those that works under way install, by index

    def keep(self, image: Image) -> None:
        """A state has arrived; whether the core wants it is known at the end of the same pass."""
        self._arrived = image

    def want(self, snapshot: Snapshot) -> None:
        """The core wants the state that has just arrived."""
        image = self._arrived
        assert image is not None
        assert image.snapshot == snapshot, (image.snapshot, snapshot)
        self._wanted[snapshot.index] = image

    def take(self, snapshot: Snapshot) -> Image:
        """The state for a work that is being written."""
        return self._wanted.pop(snapshot.index)


def reconcile(log: LogStore, keeper: StateKeeper, group: int) -> StorageAppend | None:
    """What a starting node must write to its log before anything else: the store may hold a snapshot that the log has not."""
    snapshot = keeper.snapshot(group)
    if snapshot is None:
        return None
    view = log.view(group)
    held = view.first_index() - 1 <= snapshot.index <= view.last_index() and view.term(snapshot.index) == snapshot.term
    return None if held else StorageAppend(group, must_sync=True, snapshot=snapshot)
