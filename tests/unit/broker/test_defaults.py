"""Defaults by patterns of names: which pattern counts, what they change and what they do not, and whether use creates."""

from __future__ import annotations

import re
from itertools import product
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.broker.builders import Node, named, publish, receive, ruled, scheduled, settings_of
from tests.unit.broker.model_rules import fits, specific
from zmqbroker.broker import Machine, MachineLimits
from zmqbroker.broker.defaults import Defaults
from zmqbroker.broker.records import Moment
from zmqbroker.commands import (
    ChannelChanged,
    ChannelSettings,
    CreateChannel,
    DefaultsChanged,
    DeleteChannel,
    Nack,
    OpenProducer,
    Redrive,
    Reject,
    Requeue,
    SetDefaults,
    Tick,
    completed,
    fits_pattern,
    rank_of_pattern,
)
from zmqbroker.errors import Busy, ChannelExists, ChannelFull, ChannelNotFound, Corruption

OFF = SetDefaults(">", {"create_on_use": False})

TOKENS = st.sampled_from(["a", "b", "orders"])
NAMES = st.lists(TOKENS, min_size=1, max_size=4).map(".".join)
SETTINGS = st.sets(st.sampled_from(["max_messages", "max_bytes"]), min_size=1)
PATTERNS = st.builds(
    lambda tokens, end: ".".join([*tokens, *end]) or ">",
    st.lists(st.sampled_from(["a", "b", "orders", "*"]), max_size=3),
    st.sampled_from([[], [], [">"], ["*"]]),
)


def node_with(*defaults: tuple[str, dict[str, Any]]) -> Node:
    node = Node()
    for pattern, said in defaults:
        assert node.result(SetDefaults(pattern, said)) == DefaultsChanged(pattern, changed=True)
    return node


def made(node: Node, name: str = "c") -> ChannelSettings:
    """The settings of a channel that is made by its use."""
    node.entry(publish(channel=name))
    settings = settings_of(node.machine, name)
    assert settings is not None
    return settings


# --- patterns ----------------------------------------------------------------------------------------------------------


@given(PATTERNS, NAMES)
def test_pattern_fits_as_an_obvious_expression_does(pattern: str, name: str) -> None:
    assert fits_pattern(pattern, name) == fits(pattern, name)


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("orders", "orders", True),
        ("orders", "orders.eu", False),
        ("orders.*", "orders.eu", True),
        ("orders.*", "orders", False),
        ("orders.*", "orders.eu.1", False),
        ("orders.>", "orders.eu.1", True),
        ("orders.>", "orders", False),
        (">", "orders", True),
        ("*.eu.>", "orders.eu.1", True),
        ("*.eu.>", "orders.eu", False),
        ("a..b", "a..b", True),
        ("*.b", ".b", True),
    ],
)
def test_pattern_fits_these_names(pattern: str, name: str, expected: bool) -> None:
    assert fits_pattern(pattern, name) is expected


@given(st.sets(PATTERNS, min_size=1, max_size=12), NAMES, st.data())
def test_most_specific_pattern_that_says_a_setting_counts(patterns: set[str], name: str, data: st.DataObject) -> None:
    defaults = Defaults(MachineLimits())
    said: dict[str, dict[str, int | str | bool]] = {}
    for number, pattern in enumerate(sorted(patterns)):
        said[pattern] = dict.fromkeys(data.draw(SETTINGS), number + 1)
        defaults.set(SetDefaults(pattern, said[pattern]), Moment(number + 1, 0))
    for pattern in data.draw(st.sets(st.sampled_from(sorted(patterns)))):  # the tree forgets, too
        defaults.set(SetDefaults(pattern), Moment(99, 0))
        del said[pattern]
    settings = defaults.complete(name, {})
    for key in ("max_messages", "max_bytes"):
        found = [pattern for pattern in said if fits(pattern, name) and key in said[pattern]]
        best = min(found, key=specific, default=None)
        assert getattr(settings, key) == (said[best][key] if best is not None else 0)
        assert [rank_of_pattern(one) for one in sorted(found, key=specific)] == sorted(map(rank_of_pattern, found))
    assert list(defaults) == sorted(said.items())


def test_patterns_that_fit_one_name_are_never_equally_specific() -> None:
    tokens = ["a", "b", "*", ">"]
    patterns = [".".join(parts) for count in (1, 2, 3) for parts in product(tokens, repeat=count) if ">" not in parts[:-1]]
    for name in ("a", "a.b", "a.b.a", "b.b.b"):
        fitting = [pattern for pattern in patterns if fits_pattern(pattern, name)]
        assert len({rank_of_pattern(pattern) for pattern in fitting}) == len(fitting)


def test_order_of_patterns_is_that_of_their_first_difference() -> None:
    expected = ["a.b.c", "a.b.*", "a.b.>", "a.*.c", "a.*.*", "a.*.>", "a.>", "*.b.c", "*.>", ">"]
    assert sorted(expected, key=rank_of_pattern) == expected


# --- what they change ----------------------------------------------------------------------------------------------------


def test_channel_made_by_its_use_has_them() -> None:
    node = node_with(("c", {"max_messages": 5, "delay_ms": 20}))
    assert made(node) == ChannelSettings(max_messages=5, delay_ms=20)
    assert node.stats().delayed == 1  # of the very message that made it
    assert made(node, "d") == ChannelSettings()


@pytest.mark.parametrize("use", ["receive", "open", "requeue", "reject", "redrive", "schedule"])
def test_whatever_makes_a_channel_gives_it_its_defaults(use: str) -> None:
    node = ruled(channel="from", dead_letter="c")
    node.entry(SetDefaults("c", {"max_in_flight": 3}), publish(channel="from"))
    if use == "receive":
        node.entry(receive())
    elif use == "open":
        node.entry(OpenProducer("c", 7))
    elif use == "redrive":
        node.entry(Redrive("from", "c"))
    elif use == "schedule":
        node.entry(scheduled())
        node.entry(Tick(), after_ms=1000)
    else:
        held = named(node.delivery(receive(channel="from")))
        node.entry(Requeue(*held, "c") if use == "requeue" else Reject(*held))
    assert settings_of(node.machine) == ChannelSettings(max_in_flight=3)


def test_what_is_said_when_a_channel_is_created_wins_key_by_key() -> None:
    node = node_with(("*", {"max_messages": 5, "delay_ms": 20, "overflow": "drop_oldest"}))
    node.entry(CreateChannel("c", ChannelSettings(delay_ms=30), ("max_messages",)))
    assert settings_of(node.machine) == ChannelSettings(delay_ms=30, overflow="drop_oldest")


def test_channel_that_is_there_stays_as_it_is() -> None:
    node = node_with((">", {"max_messages": 5}))
    before = made(node)
    node.entry(SetDefaults(">", {"max_messages": 6, "delay_ms": 5}))
    assert settings_of(node.machine) == before
    node.entry(SetDefaults(">"))
    assert settings_of(node.machine) == before
    node.entry(DeleteChannel("c"))
    assert made(node) == ChannelSettings()


def test_creating_again_compares_nothing_unsaid_of_which_patterns_say_something() -> None:
    node = node_with((">", {"max_messages": 5}))
    assert node.result(CreateChannel("c", ChannelSettings(delay_ms=1))) == ChannelChanged("c", changed=True)
    node.entry(SetDefaults(">", {"max_messages": 6}))
    assert node.result(CreateChannel("c", ChannelSettings(delay_ms=1))) == ChannelChanged("c", changed=False)
    refusal = node.result(CreateChannel("c"))
    assert isinstance(refusal, ChannelExists)
    assert refusal.differing == ["delay_ms"]
    refusal = node.result(CreateChannel("c", ChannelSettings(delay_ms=1), ("max_messages", "overflow")))
    assert isinstance(refusal, ChannelExists)
    assert refusal.differing == ["max_messages"]


def test_pattern_is_forgotten_with_nothing_said_and_replaced_by_anything_else() -> None:
    node = node_with(("a", {"max_messages": 5, "delay_ms": 1}))
    assert node.result(SetDefaults("a", {"delay_ms": 1, "max_messages": 5})) == DefaultsChanged("a", changed=False)
    assert node.result(SetDefaults("a", {"delay_ms": 2})) == DefaultsChanged("a", changed=True)
    assert list(node.machine.defaults()) == [("a", {"delay_ms": 2})]
    assert node.result(SetDefaults("a")) == DefaultsChanged("a", changed=True)
    assert node.result(SetDefaults("a")) == DefaultsChanged("a", changed=False)
    assert list(node.machine.defaults()) == []


def test_leader_says_what_nobody_has_said() -> None:
    node = node_with((">", {"delay_ms": 1}))
    keep = SetDefaults(">", {"create_on_use": False, "delay_ms": 9}, keep=True)
    assert node.result(keep) == DefaultsChanged(">", changed=True)
    assert list(node.machine.defaults()) == [(">", {"create_on_use": False, "delay_ms": 1})]
    node.entry(SetDefaults(">", {"create_on_use": True}))
    node.entry(keep)
    assert list(node.machine.defaults()) == [(">", {"create_on_use": True, "delay_ms": 9})]


def test_default_that_contradicts_is_left_out_for_that_channel() -> None:
    node = node_with((">", {"dead_letter": "dead", "overflow": "dead_letter", "max_messages": 1}))
    assert made(node) == ChannelSettings(dead_letter="dead", overflow="dead_letter", max_messages=1)
    assert made(node, "dead") == ChannelSettings(max_messages=1)
    node.entry(CreateChannel("e", ChannelSettings(), ("dead_letter",)))
    assert settings_of(node.machine, "e") == ChannelSettings(max_messages=1)


def test_completed_takes_nothing_from_what_is_said() -> None:
    said = {"dead_letter": "c", "overflow": "dead_letter"}  # which a request may not say of c
    assert completed("c", said, [{"dead_letter": "d", "delay_ms": 4}]) == ChannelSettings(
        dead_letter="c", overflow="dead_letter", delay_ms=4
    )


def test_more_patterns_than_the_limit_are_refused() -> None:
    node = Node(MachineLimits(defaults_max=2))
    node.entry(SetDefaults("a", {"delay_ms": 1}), SetDefaults("b", {"delay_ms": 1}))
    refusal = node.result(SetDefaults("c", {"delay_ms": 1}))
    assert isinstance(refusal, Busy)
    assert "defaults for 2 patterns" in str(refusal)
    assert node.result(SetDefaults("a", {"delay_ms": 2})) == DefaultsChanged("a", changed=True)


# --- whether use creates -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command", [publish(), publish(producer=4, base=1), receive(), receive(wait_ms=500), OpenProducer("c", 7)]
)
def test_use_of_an_unknown_channel_makes_none_where_that_is_off(command: Any) -> None:
    node = node_with((">", {"create_on_use": False}))
    refusal = node.result(command)
    assert isinstance(refusal, ChannelNotFound)
    assert "create_on_use is false" in str(refusal)
    assert node.machine.channels() == []
    node.entry(CreateChannel("c"))
    assert not isinstance(node.result(OpenProducer("c", 7)), ChannelNotFound)


def test_use_creates_where_a_more_specific_pattern_says_so() -> None:
    node = node_with((">", {"create_on_use": False}), ("tmp.>", {"create_on_use": True}))
    node.entry(publish(channel="tmp.a"), publish(channel="tmp"))
    assert node.machine.channels() == ["tmp.a"]


def test_moving_to_a_channel_that_may_not_be_made_leaves_messages_where_they_are() -> None:
    node = ruled(dead_letter="dead", delivery_limit=1)
    node.entry(OFF, publish(3))
    held = node.delivery(receive(3))
    assert isinstance(node.result(Requeue(*named(held), "other")), ChannelNotFound)
    assert isinstance(node.result(Reject(*named(held))), ChannelNotFound)
    assert node.stats().in_flight == 3
    node.entry(Nack(*named(held)))  # delivered as often as it may be, and kept
    assert (node.stats().ready, node.stats().dead_lettered) == (3, 0)
    assert isinstance(node.result(Redrive("c", "other")), ChannelNotFound)
    assert node.machine.channels() == ["c"]
    node.entry(CreateChannel("dead"))
    node.entry(Nack(*named(node.delivery(receive(3, request=2)))))
    assert node.stats("dead").depth == 3


def test_overflow_into_a_channel_that_may_not_be_made_refuses_the_send() -> None:
    node = ruled(dead_letter="dead", max_messages=1, overflow="dead_letter")
    node.entry(OFF, publish())
    assert isinstance(node.result(publish()), ChannelFull)
    assert (node.stats().ready, node.machine.channels()) == (1, ["c"])


# --- storing -------------------------------------------------------------------------------------------------------------


def test_defaults_survive_a_restart() -> None:
    node = node_with(("b.>", {"max_messages": 5, "create_on_use": True}), ("a", {"overflow": "drop_oldest"}))
    before = node.machine.digest(), list(node.machine.defaults())
    node.restart()
    assert (node.machine.digest(), list(node.machine.defaults())) == before
    assert node.machine.changes() == []
    assert made(node, "b.x") == ChannelSettings(max_messages=5)
    node.entry(SetDefaults("a"))
    assert [(key[0], value) for key, value in node.machine.changes() if key[0] == 12] == [(12, None)]


def test_value_never_changes_its_bytes() -> None:
    node = node_with(("b.>", {"max_messages": 5, "create_on_use": True}))
    ((key, value),) = [item for item in node.machine.items() if item[0][0] == 12]
    assert (key, msgpack.unpackb(value)) == (
        b"\x0c" + (1 << 16).to_bytes(8, "big"),
        ["b.>", {"create_on_use": True, "max_messages": 5}],
    )
    assert node.machine.describe(key) == f"defaults {1 << 16}"


@pytest.mark.parametrize("value", [["a"], ["a", []], ["a", {"colour": 1}], ["a", 5], [["a"], {"delay_ms": 1}]])
def test_damaged_value_is_refused(value: list[object]) -> None:
    items = [*node_with(("b", {"delay_ms": 1})).machine.items(), (b"\x0c" + bytes([1] * 8), msgpack.packb(value))]
    if value == ["a", []]:
        assert ("a", {}) in list(Machine.restore(1, items).defaults())
        return
    with pytest.raises(Corruption, match="cannot be read"):
        Machine.restore(1, items)


def test_two_of_one_pattern_are_refused() -> None:
    items = node_with(("b", {"delay_ms": 1})).machine.items()
    with pytest.raises(Corruption, match=re.escape("defaults for 'b' twice")):
        Machine.restore(1, [*items, (b"\x0c" + bytes([1] * 8), items[-1][1])])
