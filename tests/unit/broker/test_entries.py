"""Live entries: the lowest index that the log must keep."""

from tests.unit.broker.builders import Node, publish, receive
from zmqbroker.broker.entries import LiveEntries
from zmqbroker.broker.snapshot import entry_index


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


def test_live_entries_above_an_index_come_in_order_whichever_index_was_asked_for_before() -> None:
    entries = LiveEntries()
    for index in (3, 5, 5, 9, 12):
        entries.add(index)
    for after in (0, 4, 5, 12, 3, 100, 0):
        assert list(entries.above(after)) == [index for index in (3, 5, 9, 12) if index > after]
    assert list(entries.above(5)) == [9, 12]
    entries.remove(5)
    entries.remove(9)
    entries.remove(3)
    assert [list(entries.above(after)) for after in (5, 0)] == [[12], [5, 12]]


def test_machine_names_the_entries_that_hold_live_messages_and_so_does_its_state() -> None:
    node = Node()
    for channel in ("c", "d", "c"):
        node.entry(publish(2, channel=channel))
    node.ack_all([node.delivery(receive(2))])
    assert [index for index in range(1, 9) if node.machine.is_live(index)] == [2, 3]
    assert (node.machine.lowest_live_index(), node.machine.lowest_live_index(2), node.machine.lowest_live_index(3)) == (
        2,
        3,
        None,
    )
    assert [list(node.machine.live_indexes(after)) for after in (0, 2)] == [[2, 3], [3]]
    named = [index for key, value in node.machine.items() if (index := entry_index(key, value)) is not None]
    assert sorted(named) == [2, 3]
