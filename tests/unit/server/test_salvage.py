"""A store that is ahead of its log: what has no body is finished, the rest is stored so that the log can go on behind it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.broker.builders import Node, publish
from tests.unit.server.harness import member
from tests.unit.storage.support import append, open_log, run
from zmqbroker.broker import Machine
from zmqbroker.raft.messages import HardState
from zmqbroker.server.membership import founding
from zmqbroker.server.opening import align
from zmqbroker.server.salvage import lose_what_the_log_lost
from zmqbroker.storage.interfaces import StateStore
from zmqbroker.storage.lmdb_state import LmdbState

GROUP = 1


@pytest.fixture
def state(tmp_path: Path) -> Iterator[StateStore]:
    store = LmdbState.open(tmp_path / "state", sync=False, map_size=8 << 20)
    yield store
    store.close()


def body(index: int) -> bytes:
    return bytes([index]) * 500


@pytest.mark.parametrize("kept", [0, 7])
def test_store_ahead_of_its_log_keeps_what_has_a_body(tmp_path: Path, state: StateStore, kept: int) -> None:
    node = Node()
    node.machine.found(founding([member(1)]))
    for _ in range(10):
        node.entry(publish(2))
    # A snapshot has brought the bodies up to 3; the log begins behind them and ends early.
    state.install(GROUP, 3, 1, [], [(index, body(index)) for index in (1, 2, 3)])
    state.commit(GROUP, 10, node.machine.items())
    log = open_log(tmp_path / "log")
    for index in range(1, kept + 1):
        run(log, append(index, body(index), term=4, state=HardState(4, 1, index - 1)))
    for _ in range(2):  # a death in between costs nothing
        lost = lose_what_the_log_lost(GROUP, log, state)
        machine = Machine.restore(state.applied_index(GROUP), state.load(GROUP))
        assert machine.applied_index == 10
        alive = list(range(1, max(kept, 3) + 1))
        assert [index for index in range(1, 11) if machine.is_live(index)] == alive
        assert {index: state.body(GROUP, index) for index in state.body_indexes(GROUP)} == {one: body(one) for one in alive}
        stats = machine.stats("c")
        assert stats is not None
        assert (stats.depth, stats.last_sequence) == (2 * len(alive), 20)
    assert lost == 0
    align(GROUP, log, state)
    view = log.view(GROUP)
    assert (view.first_index(), view.last_index(), view.hard_state().commit) == (11, 10, 10)
    assert view.term(10) == (4 if kept else 1)
    log.close()
