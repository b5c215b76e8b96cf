"""Messages whose entries are lost with their bodies are finished, wherever they are, and nothing else is touched."""

from __future__ import annotations

import random

import pytest

from tests.unit.broker.builders import BOB, Node, publish, ranges, receive
from zmqbroker.broker import Machine
from zmqbroker.commands import DeleteMessages


def restored(node: Node) -> Machine:
    """The machine as its store has it."""
    return Machine.restore(node.machine.applied_index, node.machine.items())


def live(machine: Machine) -> list[int]:
    """The entries that hold a live message."""
    return [index for index in range(1, machine.applied_index + 1) if machine.is_live(index)]


def test_lost_messages_ready_and_in_flight_are_finished() -> None:
    node = Node()
    for _ in range(4):
        node.entry(publish(3))  # entries 1 to 4: sequences 1 to 12
    assert ranges(node.delivery(receive(5))) == [(1, 3, 1), (4, 5, 1)]
    machine = restored(node)
    assert live(machine) == [1, 2, 3, 4]
    assert machine.lose(lambda index: index in (2, 4)) == 6
    assert live(machine) == [1, 3]
    stats = machine.stats("c")
    assert stats is not None
    assert (stats.ready, stats.in_flight, stats.last_sequence, stats.acked, stats.dropped) == (3, 3, 12, 0, 6)


def test_lost_messages_are_counted_with_those_dropped_before() -> None:
    node = Node()
    node.entry(publish(3))
    node.entry(publish(3))
    node.entry(DeleteMessages("c", ((6, 6),)))
    machine = restored(node)
    assert machine.lose(lambda index: index == 1) == 3
    stats = machine.stats("c")
    assert stats is not None
    assert (stats.dropped, stats.depth) == (4, 2)


def test_lost_assignment_frees_its_receive() -> None:
    node = Node()
    node.entry(publish(2))
    node.entry(publish(2))
    node.delivery(receive(2, session=BOB))
    machine = restored(node)
    assert machine.lose(lambda index: index == 1) == 2
    assert not machine.holds(BOB)
    assert machine.lose(lambda index: index == 1) == 0, "once"


@pytest.mark.parametrize("seed", range(30))
def test_what_is_left_is_a_state_that_can_be_stored(seed: int) -> None:
    chance, node = random.Random(seed), Node()
    for number in range(1, 40):
        if chance.random() < 0.6:
            node.entry(publish(chance.randrange(1, 5), channel=chance.choice("ab")))
        else:
            command = receive(chance.randrange(1, 6), request=number, channel=chance.choice("ab"))
            node.entry(command)
    machine = restored(node)
    lost = set(chance.sample(range(1, 40), 15))
    before = {name: stats.depth for name in machine.channels() if (stats := machine.stats(name))}
    count = machine.lose(lost.__contains__)
    after = {name: stats.depth for name in machine.channels() if (stats := machine.stats(name))}
    assert sum(before.values()) - sum(after.values()) == count
    assert not lost & set(live(machine))
    stored = dict(node.machine.items())
    for key, value in machine.changes():
        if value is None:
            del stored[key]
        else:
            stored[key] = value
    assert sorted(stored.items()) == machine.items(), "what changed is told"
    again = Machine.restore(machine.applied_index, machine.items())
    assert again.items() == machine.items()
