"""That a state loses nothing: values against living cores, numbers against values, six namings against one."""

from __future__ import annotations

from itertools import permutations
from random import Random

import pytest

from tests.exhaustive.explore import explore
from tests.exhaustive.live import LiveGroup
from tests.exhaustive.model import Model
from tests.exhaustive.replica import Mail, Runner, mirror
from tests.exhaustive.scope import Scope
from tests.exhaustive.walk import Walk
from zmqbroker.raft.messages import MessageType

#: Wider than what can be explored, for random histories.
WIDE = Scope(terms=5, proposals=8, heartbeats=8, bag=8, drops=3, duplicates=8, crashes=0)


def made_by(call: str, walk: Walk) -> None:
    """Make a call that a counterexample prints."""
    eval(f"walk.{call}", {"Mail": Mail, "MessageType": MessageType, "walk": walk})


@pytest.mark.parametrize("seed", range(25))
def test_values_follow_living_cores_step_by_step(seed: int) -> None:
    random, model, walk, live = Random(seed), Model(WIDE), Walk(WIDE), LiveGroup()
    group = model.initial
    for _ in range(150):
        steps = list(model.expand(group))
        if not steps:
            break
        action, place, message, group = random.choice(steps)
        made_by(model.call(action, place, message), walk)
        name = place + 1
        works = len(walk.node(name).works)
        if message < 0:
            live.act(action.name, name, works)
        else:
            receiver, sender, mail = model.message(message)
            found = next(one for one in live.under_way if (one.to, one.sender, Runner.mail_of(one)) == (receiver, sender, mail))
            if action.name != "duplicate":
                live.under_way.remove(found)
            if action.name != "drop":
                live.deliver(found, works)
        assert [model.replicas[node] for node in group[0]] == walk.nodes
        for other, one in live.nodes.items():
            assert one.agrees_with(walk.node(other), other), action


def test_core_takes_no_node_for_special() -> None:
    model = Model(Scope(terms=2, proposals=1, heartbeats=1, bag=2, drops=1, duplicates=1, crashes=1))
    explore(model)
    runners = [Runner(names=(first, second, third)) for first, second, third in permutations((1, 2, 3))]
    compared = 0
    for replica, run in model.every_step():
        outcomes = [run(runner) for runner in runners]
        assert len({(outcome.replica, tuple(sorted(outcome.sent))) for outcome in outcomes}) == 1
        assert mirror(mirror(replica)) == replica
        compared += 1
    assert compared == model.steps


def test_states_that_differ_in_names_only_are_one() -> None:
    scope = Scope(terms=2, proposals=0, heartbeats=0, bag=3, drops=0, duplicates=1, crashes=0)
    model = Model(scope)
    seen, level = {model.initial}, [model.initial]
    while level:
        level = list({group for parent in level for *_, group in model.expand(parent)} - seen)
        seen.update(level)
    states = explore(Model(scope)).states
    assert len({model.pack(group) for group in seen}) == states < len(seen) / 5
