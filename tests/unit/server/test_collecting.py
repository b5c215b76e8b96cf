"""A node with much state is not stopped by the garbage collector."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from tests.unit.broker.builders import Node, publish
from zmqbroker.commands import DeleteChannel
from zmqbroker.server.collecting import freeze_what_takes_long


@pytest.fixture
def frozen_again() -> Iterator[None]:
    before = list(gc.callbacks)
    yield
    gc.callbacks[:] = before
    gc.unfreeze()


@pytest.mark.usefixtures("frozen_again")
@pytest.mark.parametrize(("long_s", "frozen"), [(0.0, True), (3600.0, False)])
def test_collection_freezes_what_it_has_found_alive_only_when_it_took_long(long_s: float, frozen: bool) -> None:
    gc.unfreeze()
    freeze_what_takes_long(long_s)
    gc.collect(1)
    assert gc.get_freeze_count() == 0
    gc.collect()
    assert (gc.get_freeze_count() > 0) == frozen


@pytest.mark.usefixtures("frozen_again")
def test_deleted_channel_is_freed_without_the_collector() -> None:
    node = Node()
    node.entry(publish(1))
    queue = node.machine.channel("c")
    assert queue is not None
    gone = weakref.ref(queue)
    del queue
    gc.disable()
    try:
        node.entry(DeleteChannel("c"))
        node.machine.changes()
        assert gone() is None
    finally:
        gc.enable()
