"""Defects of the order between log, state and bodies.

No run of the simulator shows them: there each step is durable at once. They are put into a process that is recorded, and found
in what a power cut leaves of its files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import pytest

from tests.fault import test_node_crash_images
from tests.mutants.mutant import Mutant, check
from zmqbroker.raft.messages import StorageAppend
from zmqbroker.server import opening, snapshots
from zmqbroker.server.snapshot_receiving import ReceivedSnapshot, store_bodies, store_snapshot
from zmqbroker.server.snapshots import Snapshots
from zmqbroker.server.state_flusher import StateFlusher
from zmqbroker.storage.interfaces import StateStore
from zmqbroker.storage.lmdb_state import LmdbState

__all__ = ["MUTANTS"]

_PUT, _MARK, _COMMIT = LmdbState.put_bodies, LmdbState.mark_bodies, LmdbState.commit

Defect = Callable[[pytest.MonkeyPatch], object]


def _recorded(defect: Defect) -> Defect:
    """The defect, in the recorded process and in those that open what a power cut left of it."""
    place = f"{defect.__module__}:{defect.__name__}"

    def apply(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(test_node_crash_images, "DEFECT", place)
        defect(patch)

    return apply


class _Late:
    """Calls of a store that are made later, and forgotten with its process."""

    def __init__(self) -> None:
        self._calls: list[tuple[LmdbState, Callable[[], None]]] = []

    def put(self, state: LmdbState, group: int, bodies: Iterable[tuple[int, bytes]]) -> None:
        """In place of `put_bodies`."""
        self._calls.append((state, partial(_PUT, state, group, list(bodies))))

    def mark(self, state: LmdbState, group: int, index: int) -> None:
        """In place of `mark_bodies`."""
        self._calls.append((state, partial(_MARK, state, group, index)))

    def make(self, state: LmdbState) -> None:
        """Make them now."""
        calls, self._calls = self._calls, []
        for owner, call in calls:
            if owner is state:
                call()

    def patch(self, patch: pytest.MonkeyPatch) -> None:
        """Let bodies that move be stored later; those of a snapshot are stored as ever."""
        patch.setattr(LmdbState, "put_bodies", lambda *arguments: self.put(*arguments))

        def stored(received: ReceivedSnapshot, state: LmdbState, group: int) -> None:
            store_bodies(received, state, group)
            self.make(state)

        patch.setattr(snapshots, "store_bodies", stored)


def mark_first(patch: pytest.MonkeyPatch) -> None:
    """The mark that says that bodies are stored moves before they are."""
    late = _Late()

    def marked(state: LmdbState, group: int, index: int) -> None:
        _MARK(state, group, index)
        late.make(state)

    late.patch(patch)
    patch.setattr(LmdbState, "mark_bodies", marked)


def trim_first(patch: pytest.MonkeyPatch) -> None:
    """The log is trimmed before the bodies that it held are stored: they, and the mark, come with the next flush."""
    late = _Late()

    def committed(state: LmdbState, *arguments: Any) -> None:
        late.make(state)
        _COMMIT(state, *arguments)

    late.patch(patch)
    patch.setattr(LmdbState, "mark_bodies", lambda *arguments: late.mark(*arguments))
    patch.setattr(LmdbState, "commit", committed)


def drop_bodies_first(patch: pytest.MonkeyPatch) -> None:
    """Bodies are deleted before the state that does not need them is stored."""
    take = StateFlusher._take

    def taken(flusher: StateFlusher, group: int, *arguments: Any) -> Any:
        found = take(flusher, group, *arguments)
        flusher._state.drop_bodies(group, found.dead)
        return found

    patch.setattr(StateFlusher, "_take", taken)


def install_state_first(patch: pytest.MonkeyPatch) -> None:
    """A snapshot's state is stored before its bodies."""

    def stored(received: ReceivedSnapshot, state: StateStore, group: int) -> None:
        store_snapshot(received, state, group)
        store_bodies(received, state, group)

    patch.setattr(snapshots, "store_bodies", lambda *_: None)
    patch.setattr(snapshots, "store_snapshot", stored)


def begin_log_first(patch: pytest.MonkeyPatch) -> None:
    """The log begins anew behind a snapshot before its state is stored."""
    install = Snapshots._install

    async def installed(self: Snapshots, number: int, received: ReceivedSnapshot, release: Callable[[], None]) -> None:
        job = self._log.prepare([StorageAppend(number, must_sync=True, snapshot=received.snapshot)])
        job.write()
        job.sync()
        self._log.complete(job)
        await install(self, number, received, release)

    patch.setattr(Snapshots, "_install", installed)


def forget_snapshot(patch: pytest.MonkeyPatch) -> None:
    """A start leaves the log as it is where the state is an installed snapshot's already, and the log is not."""
    patch.setattr(opening, "begin_behind_snapshot", lambda *_: None)


_IMAGES = check(test_node_crash_images.test_node_after_any_crash_of_a_short_work_keeps_what_it_promised)
_BREAKS: tuple[tuple[str, str, Defect], ...] = (
    ("L9", "the mark of the bodies moves before they are stored", mark_first),
    ("L10", "the log is trimmed before its bodies are stored", trim_first),
    ("L11", "bodies are deleted before the state that does not need them is stored", drop_bodies_first),
    ("L12", "a snapshot's state is stored before its bodies", install_state_first),
    ("L13", "the log begins behind a snapshot before its state is stored", begin_log_first),
    ("L14", "a start does not begin the log behind a snapshot whose state is stored", forget_snapshot),
)

MUTANTS = tuple(Mutant(id=id, breaks=breaks, apply=_recorded(defect), check=_IMAGES) for id, breaks, defect in _BREAKS)
