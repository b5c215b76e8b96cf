"""Live entries: the lowest index that the log must keep."""

from zmqbroker.broker.entries import LiveEntries


def test_live_entries_lowest_moves_when_its_last_batch_is_finished() -> None:
    entries = LiveEntries()
    for index in (3, 3, 5, 9):
        entries.add(index)
    entries.remove(3)
    assert entries.lowest() == 3
    entries.remove(5)
    entries.remove(3)
    assert entries.lowest() == 9
    entries.remove(9)
    assert entries.lowest() is None


def test_live_entries_lowest_above_an_index_looks_past_what_is_below() -> None:
    entries = LiveEntries()
    for index in (3, 3, 5, 9):
        entries.add(index)
    assert [entries.lowest(after) for after in (4, 5, 3, 9, 0, 2)] == [5, 9, 5, None, 3, 3]
    assert entries.lowest(5) == 9
    entries.add(12)
    entries.remove(3)
    entries.remove(9)
    assert (entries.lowest(5), entries.lowest(5)) == (12, 12)
    assert [index in entries for index in (3, 5, 9, 12)] == [True, True, False, True]
    entries.remove(3)
    assert 3 not in entries
    assert (entries.lowest(), entries.lowest(12)) == (5, None)
