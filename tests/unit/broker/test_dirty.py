"""Dirty keys: what must be written, and what need not be."""

from zmqbroker.broker.dirty import Dirty


def test_dirty_created_key_is_taken_once() -> None:
    dirty: Dirty[int] = Dirty()
    dirty.created(1)
    dirty.changed(1)
    assert dirty.take() == [1]
    assert dirty.take() == []


def test_dirty_key_made_and_removed_before_storing_is_forgotten() -> None:
    dirty: Dirty[int] = Dirty()
    dirty.created(1)
    dirty.changed(1)
    dirty.deleted(1)
    assert dirty.take() == []


def test_dirty_stored_key_that_was_removed_is_taken() -> None:
    dirty: Dirty[int] = Dirty()
    dirty.created(1)
    dirty.take()
    dirty.deleted(1)
    assert dirty.take() == [1]


def test_dirty_stored_key_replaced_and_removed_again_is_taken() -> None:
    dirty: Dirty[int] = Dirty()
    dirty.created(1)
    dirty.take()
    dirty.changed(1)
    dirty.deleted(1)
    dirty.created(1)
    dirty.deleted(1)
    assert dirty.take() == [1]
