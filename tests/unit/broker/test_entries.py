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
