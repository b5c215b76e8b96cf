"""Patterns in the trie against a matcher that compares every pattern, and what is left when they are gone."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zmqbroker.realtime.trie import PatternTrie

TOKENS = st.sampled_from(["a", "b", "c", ""])
NAMES = st.lists(TOKENS, min_size=1, max_size=5).map(".".join)
PATTERNS = st.builds(
    lambda tokens, tail: ".".join([*tokens, *tail]),
    st.lists(st.sampled_from(["a", "b", "c", "", "*"]), min_size=1, max_size=4),
    st.sampled_from([[], [">"]]),
) | st.just(">")


def fits(pattern: str, name: str) -> bool:
    """The rules, token by token."""
    wanted, tokens = pattern.split("."), name.split(".")
    if wanted[-1] == ">":
        return len(tokens) >= len(wanted) and fits(".".join([*wanted[:-1], "*"]), ".".join(tokens[: len(wanted)]))
    return len(wanted) == len(tokens) and all(want in ("*", token) for want, token in zip(wanted, tokens, strict=True))


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("foo", "foo", True),
        ("foo", "foo.bar", False),
        ("foo.*", "foo.bar", True),
        ("foo.*", "foo", False),
        ("foo.*", "foo.bar.baz", False),
        ("*.bar", "foo.bar", True),
        ("foo.*.baz", "foo.bar.baz", True),
        ("foo.>", "foo", False),
        ("foo.>", "foo.bar", True),
        ("foo.>", "foo.bar.baz", True),
        (">", "foo", True),
        ("*.>", "foo", False),
    ],
)
def test_pattern_matches_as_the_rules_say(pattern: str, name: str, matches: bool) -> None:
    trie: PatternTrie[int] = PatternTrie()
    trie.add(pattern, 1)
    assert bool(trie.match(name)) == matches == fits(pattern, name)


@given(st.lists(PATTERNS, max_size=30), st.lists(NAMES, min_size=1, max_size=10), st.data())
def test_match_finds_what_comparing_every_pattern_finds(patterns: list[str], names: list[str], data: st.DataObject) -> None:
    trie: PatternTrie[int] = PatternTrie()
    for number, pattern in enumerate(patterns):
        trie.add(pattern, number)
    gone = data.draw(st.sets(st.sampled_from(range(len(patterns))))) if patterns else set()
    for number in gone:
        trie.remove(patterns[number], number)
    for name in names:
        expected = [number for number, pattern in enumerate(patterns) if number not in gone and fits(pattern, name)]
        assert sorted(trie.match(name)) == expected


@given(st.lists(PATTERNS, max_size=30))
def test_nothing_is_left_of_patterns_that_are_gone(patterns: list[str]) -> None:
    trie: PatternTrie[int] = PatternTrie()
    for number, pattern in enumerate(patterns):
        trie.add(pattern, number)
    for number, pattern in enumerate(patterns):
        trie.remove(pattern, number)
    root = trie._root
    assert (root.branches, root.ending, root.tails) == ({}, [], [])


def test_remove_of_what_was_not_added_is_a_bug() -> None:
    trie: PatternTrie[int] = PatternTrie()
    trie.add("a.b", 1)
    with pytest.raises(ValueError, match="not in list"):
        trie.remove("a.b", 2)
    with pytest.raises(KeyError):
        trie.remove("a.c", 1)


class _Counting(dict[str, object]):
    """Branches that count how often they are asked."""

    asked = 0

    def get(self, key: str, default: object = None) -> object:
        _Counting.asked += 1
        return super().get(key, default)


def _looks(count: int) -> int:
    """Branches looked at for one name among so many patterns."""
    chance, trie = random.Random(1), PatternTrie[int]()
    for number in range(count):
        trie.add(f"region-{number}.{chance.choice(['*', 'sensor'])}.{number}", number)
    trie.add("region-0.*.>", -1)
    waiting = [trie._root]
    while waiting:
        node = waiting.pop()
        waiting += node.branches.values()
        node.branches = _Counting(node.branches)  # type: ignore[assignment]
    _Counting.asked = 0
    assert trie.match("region-0.sensor.7") == [-1]
    return _Counting.asked


def test_match_among_10_000_patterns_looks_at_no_more_branches_than_among_10() -> None:
    assert _looks(10_000) == _looks(10) <= 2 * (1 + 2 + 4)
