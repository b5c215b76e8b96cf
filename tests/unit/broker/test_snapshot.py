"""State to keys and back: complete, minimal, and refused when damaged."""

from __future__ import annotations

import msgpack
import pytest

from tests.unit.broker.builders import ALICE, BOB, MILLISECOND, START, TINY, Node, named, publish, receive, ruled, settings_of
from zmqbroker.broker import Machine
from zmqbroker.broker.snapshot import META_KEY, ROSTER_KEY
from zmqbroker.commands import ChannelSettings, Member, OpenProducer, Reject, Roster, Run, Tick, Trim, UpdateChannel
from zmqbroker.errors import Corruption

Item = tuple[bytes, bytes]

FOUNDER, NEWCOMER = Member(1, "a", b"a" * 16, "a:1"), Member(4, "b", b"b" * 16, "b:1", False, 2)
ROSTER = Roster(0, (FOUNDER,), b"who votes", 2)


def busy_node() -> Node:
    """A node with something of every kind of key."""
    node = Node()
    node.machine.found(ROSTER)
    later = publish(3, channel="d", runs=(Run(2), Run(1, delay_ms=5_000, expiry_ms=60_000, priority=3)))
    node.entry(OpenProducer("c", 7), publish(5, producer=7, base=1), later, Trim(3))
    one_at_a_time = UpdateChannel("d", ChannelSettings(single_active=True))
    node.entry(receive(2, visibility_ms=100), receive(1, session=BOB), one_at_a_time, receive(1, session=BOB, channel="d"))
    node.entry(receive(9, session=BOB, request=2, count_min=9, wait_ms=1000), after_ms=200)
    return node


def test_changes_first_call_holds_everything() -> None:
    node = busy_node()
    changes = node.machine.changes()
    assert changes == node.machine.items()
    assert {key[0] for key, _ in changes} == {*range(9), 13}


def test_changes_without_an_entry_between_are_none() -> None:
    node = busy_node()
    node.machine.changes()
    assert node.machine.changes() == []


def test_changes_are_proportional_to_what_changed() -> None:
    node = Node()
    node.entry(*(publish(2) for _ in range(1000)))
    node.machine.changes()
    node.entry(publish(2), after_ms=1)
    # meta, channel, the new batch and the one ready range
    assert [key[0] for key, _ in node.machine.changes()] == [0, 1, 2, 3]


def test_changes_of_what_came_and_went_between_flushes_are_not_written() -> None:
    node = Node()
    node.entry(publish(1))
    node.machine.changes()
    for request in range(10):
        node.entry(publish(3))
        node.ack_all([node.delivery(receive(3, request=request))])
    changes = dict(node.machine.changes())
    # meta, channel, the new last batch and ready range, the deletion of the first ones, and nothing of all between
    assert sorted(key[0] for key in changes) == [0, 1, 2, 2, 3, 3]
    assert list(changes.values()).count(None) == 2


def test_changes_deleted_keys_are_none() -> None:
    node = busy_node()
    stored = dict(node.machine.changes())
    node.close(ALICE)
    node.close(BOB)
    for key, value in node.machine.changes():
        if value is None:
            del stored[key]
        else:
            stored[key] = value
    assert sorted(stored.items()) == node.machine.items()
    assert {key[0] for key in stored} == {0, 1, 2, 3, 6, 7, 8}


def test_changes_evicted_producer_is_deleted() -> None:
    node = Node(TINY)
    node.entry(OpenProducer("c", 7), OpenProducer("c", 8))
    node.machine.changes()
    node.entry(OpenProducer("c", 9))
    assert [value is None for key, value in node.machine.changes() if key[0] == 6] == [True, False]


def test_restore_continues_like_the_machine_that_wrote() -> None:
    node, other = busy_node(), busy_node()
    other.machine = Machine.restore(other.index, other.machine.items())
    assert other.machine.digest() == node.machine.digest()
    assert other.machine.changes() == []
    for step in range(3):
        commands = (publish(4), receive(3, request=50 + step), Tick())
        left, right = node.entry(*commands, after_ms=400), other.entry(*commands, after_ms=400)
        assert left == right
        assert node.ack_all(left.deliveries) == other.ack_all(right.deliveries)
    assert other.machine.digest() == node.machine.digest()
    assert other.machine.changes() != []


def test_restore_answers_what_was_derived() -> None:
    node = busy_node()
    restored = Machine.restore(node.index, node.machine.items())
    for machine in (node.machine, restored):
        assert (machine.applied_index, machine.trimmed_index, machine.lowest_live_index()) == (3, 3, 1)
        assert machine.now_unix_ns == node.now_unix_ns
        assert set(machine.sessions()) == {BOB}
        assert machine.waits(BOB)
    assert restored.next_due_unix_ns() == node.machine.next_due_unix_ns()
    assert [restored.stats(name) for name in "cd"] == [node.machine.stats(name) for name in "cd"]


def test_restore_of_nothing_is_a_new_machine() -> None:
    assert Machine.restore(0, ()).items() == Machine().items()


def test_restored_machine_serves_receipts_of_before() -> None:
    node = Node()
    node.entry(publish(2))
    delivery = node.delivery(receive(2))
    node.machine = Machine.restore(node.index, node.machine.items())
    node.ack_all([delivery])
    assert (node.stats().depth, node.stats().acked) == (0, 2)
    assert node.machine.lowest_live_index() is None


# --- the roster -------------------------------------------------------------------------------------------------------


def test_roster_is_part_of_the_state_and_comes_back() -> None:
    node = busy_node()
    grown = Roster(4, (FOUNDER, NEWCOMER), b"other votes", 5)
    before = node.machine.digest()
    node.machine.changes()
    assert node.machine.change_members(4, grown).results == []
    assert node.machine.roster is grown
    assert [key for key, _ in node.machine.changes()] == [ROSTER_KEY]
    assert node.machine.digest() != before
    restored = Machine.restore(4, node.machine.items())
    assert restored.roster == grown
    assert restored.digest() == node.machine.digest()


def test_roster_value_never_changes_its_bytes() -> None:
    stored = dict(busy_node().machine.items())[ROSTER_KEY]
    assert msgpack.unpackb(stored) == [0, 2, b"who votes", [[1, "a", b"a" * 16, "a:1", True, 0]]]


def test_roster_of_an_entry_lets_fall_due_what_is_due_and_moves_the_index() -> None:
    node = busy_node()
    node.machine.change_members(4, ROSTER)
    assert node.machine.applied_index == 4
    with pytest.raises(AssertionError):
        node.machine.found(ROSTER)


def test_restore_of_state_from_before_there_was_a_roster_has_none() -> None:
    items = [item for item in busy_node().machine.items() if item[0] != ROSTER_KEY]
    restored = Machine.restore(3, items)
    assert restored.roster == Roster()
    restored.found(ROSTER)
    assert [key for key, _ in restored.changes()] == [ROSTER_KEY]


# --- damage -----------------------------------------------------------------------------------------------------------


def with_value(items: list[Item], key: bytes, *values: object) -> list[Item]:
    return [(k, msgpack.packb(values) if k == key else v) for k, v in items]


def simple_items() -> list[Item]:
    node = Node()
    node.entry(publish(2))
    return node.machine.items()


def refusal(items: list[Item]) -> str:
    with pytest.raises(Corruption) as caught:
        Machine.restore(1, items)
    return str(caught.value)


@pytest.mark.parametrize("values", [(2, 0, 1, 0), (5, 0, 1, 0, 2, "more"), (5,)])
def test_restore_of_another_machine_version_is_refused_whatever_else_it_says(values: tuple[object, ...]) -> None:
    assert f"version {values[0]}, this is version 4" in refusal(with_value(simple_items(), META_KEY, *values))


@pytest.mark.parametrize("values", [(), (4, 0, 1, 0), (4, 0, 1, 0, 2, 2)])
def test_restore_of_unreadable_meta_is_refused(values: tuple[object, ...]) -> None:
    assert "cannot be read" in refusal(with_value(simple_items(), META_KEY, *values))


def test_restore_without_meta_is_refused() -> None:
    assert "no meta record" in refusal(simple_items()[1:])


def test_restore_without_the_channel_is_refused() -> None:
    assert "missing or out of order" in refusal([item for item in simple_items() if item[0][0] != 1])


def test_restore_with_a_gap_between_channels_is_refused() -> None:
    items = simple_items()
    header = next(value for key, value in items if key[0] == 1)
    assert "missing or out of order" in refusal([items[0], (bytes([1, 0, 0, 0, 2]), header)])


@pytest.mark.parametrize("key", [b"", b"\x07" + bytes(12), b"\x02" + bytes(4), b"\x01" + bytes(12)])
def test_restore_of_an_unknown_key_is_refused(key: bytes) -> None:
    assert "unknown key" in refusal([*simple_items(), (key, b"\x90")])


@pytest.mark.parametrize("value", [b"", b"\x93", b"\x91\x01", b"\xc1"])
def test_restore_of_an_unreadable_value_is_refused(value: bytes) -> None:
    items = simple_items()
    assert "cannot be read" in refusal([*items[:-1], (items[-1][0], value)])


# --- delays, settings, and messages that were moved -------------------------------------------------------------------


def moved_node() -> Node:
    """A node whose channel has settings, with a delayed message and one that was moved to the second channel."""
    node = ruled(delivery_limit=4, dead_letter="dead", overflow="drop_oldest")
    node.entry(publish(4, runs=(Run(3), Run(1, delay_ms=50, expiry_ms=90, priority=2))))
    node.entry(Reject(*named(node.delivery(receive(2))), reason="bad"))
    return node


def values_of(node: Node, kind: int) -> list[object]:
    return [msgpack.unpackb(value) for key, value in node.machine.items() if key[0] == kind]


def test_values_of_the_new_kinds_never_change_their_bytes() -> None:
    node = moved_node()
    settings = {"delivery_limit": 4, "dead_letter": "dead", "overflow": "drop_oldest"}
    assert values_of(node, 1) == [
        ["c", 1, 5, 0, [0, 0, 0, 2, 0, 0, 0, 4, 1000, 2, 500], settings],
        ["dead", 4, 3, 0, [0] * 11, {}],
    ]
    assert values_of(node, 2) == [
        [3, 2, 16, 1000, 30, 10, START, 0, 750, 0, 0, None],
        [4, 2, 16, 1000, 10, 10, START, 3, 250, 2, START + 90 * MILLISECOND, None],
        [2, 2, 16, 1000, 20, 10, START, 0, 500, 0, 0, ["c", 1, 1, "bad"]],
    ]
    assert values_of(node, 8) == [[4, START + 50 * MILLISECOND, 0]]


def test_whole_batch_is_stored_as_before_there_were_columns() -> None:
    assert values_of(ruled(), 1) == [["c", 1, 1, 0, [0] * 11, {}]]
    node = Node()
    node.entry(publish(2))
    assert values_of(node, 2) == [[2, 1, 16, 1000, 20, 10, START]]


def test_settings_and_counters_come_back() -> None:
    node = moved_node()
    before = node.stats(), node.stats("dead")
    node.restart()
    assert (node.stats(), node.stats("dead")) == before
    assert settings_of(node.machine) == ChannelSettings(delivery_limit=4, dead_letter="dead", overflow="drop_oldest")


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (1, ("c", 1, 5, 0, [0, 0, 0, 2, 0, 0])),
        (1, ("c", 1, 5, 0, [0] * 12, {})),
        (1, ("c", 1, 5, 0, [0] * 11, {"unknown": 1})),
        (1, ("c", 1, 5, 0, [0] * 11, [])),
        (2, (3, 2, 16, 1000, 30, 10)),
        (2, (3, 2, 16, 1000, 30, 10, 0, 0, 750, 0, 0)),
        (2, (3, 2, 16, 1000, 30, 10, 0, 0, 750, 0, 0, ["c", 1, 1])),
        (2, (3, 2, 16, 1000, 30, 10, 0, 0, 750, 0, 0, 5)),
        (8, (4, 9)),
        (8, (4, 9, 0, 0)),
        (8, ("4", 9, 0)),
    ],
)
def test_restore_of_a_malformed_value_of_a_new_kind_is_refused(kind: int, values: tuple[object, ...]) -> None:
    items = moved_node().machine.items()
    key = next(key for key, _ in items if key[0] == kind)
    assert "cannot be read" in refusal(with_value(items, key, *values))


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (2, (0, 2, 16, 1000, 30, 10, 0)),  # a range that ends before it begins
        (2, (3, "2", 16, 1000, 30, 10, 0)),  # the number of an entry that is text
        (3, (0, 1)),
        (8, (0, 9, 0)),
        (8, (2**64 - 1, 9, 0)),  # over its neighbour
        (1, ("c", 1, 5, 0, [0] * 12, {})),
    ],
)
def test_restore_of_a_value_that_no_machine_writes_is_refused(kind: int, values: tuple[object, ...]) -> None:
    items = moved_node().machine.items()
    key = next(key for key, _ in items if key[0] == kind)
    assert refusal(with_value(items, key, *values))


@pytest.mark.parametrize("kind", [2, 8])
def test_restore_of_delayed_messages_that_do_not_fit_the_batches_is_refused(kind: int) -> None:
    items = moved_node().machine.items()
    last = [key for key, _ in items if key[0] == kind and key[4] == 1][-1]
    assert "do not fit" in refusal([item for item in items if item[0] != last])


@pytest.mark.parametrize("kind", [2, 3])
def test_restore_of_batches_that_do_not_fit_the_messages_is_refused(kind: int) -> None:
    assert "do not fit" in refusal([item for item in simple_items() if item[0][0] != kind])
