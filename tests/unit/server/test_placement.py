"""Which group holds a channel: PROTOCOL §3, "Groups"."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zmqbroker.server.placement import group_of, tag_of
from zmqbroker.wire.codec import crc32c

TEXT = st.text(st.characters(exclude_characters="{}", codec="utf-8"), max_size=9)


@pytest.mark.parametrize(
    ("channel", "tag"),
    [
        ("orders", "orders"),
        ("{eu}", "eu"),
        ("orders.{eu}.new", "eu"),
        ("orders.{eu}.{us}", "eu"),
        ("{eu}{us}", "eu"),
        ("a}{eu}", "eu"),
        ("{{eu}}", "{eu"),
        ("{}{eu}", "{}{eu}"),
        ("{}", "{}"),
        ("orders.{eu", "orders.{eu"),
        ("orders.eu}", "orders.eu}"),
        ("}eu{", "}eu{"),
        ("käse.{ü}", "ü"),
    ],
)
def test_tag_of_a_channel_is_what_its_first_braces_hold(channel: str, tag: str) -> None:
    assert tag_of(channel) == tag


@given(st.integers(1, 64), TEXT, TEXT, TEXT.filter(bool), TEXT)
def test_group_of_channels_that_share_a_tag_is_the_same(groups: int, one: str, other: str, tag: str, behind: str) -> None:
    found = {group_of(name, groups) for name in (f"{one}{{{tag}}}", f"{other}{{{tag}}}{behind}", f"{{{tag}}}{{{one}}}", tag)}
    assert len(found) == 1
    assert 1 <= found.pop() <= groups


@pytest.mark.parametrize(
    ("channel", "groups", "group"), [("orders", 1, 1), ("orders", 16, 11), ("{eu}.a", 16, 15), ("ü", 7, 6)]
)
def test_group_of_a_channel_is_for_good(channel: str, groups: int, group: int) -> None:
    assert group_of(channel, groups) == group == 1 + crc32c(tag_of(channel).encode()) % groups


def test_groups_get_about_as_many_channels_each() -> None:
    counts = Counter(group_of(f"orders.{number}", 8) for number in range(8000))
    assert sorted(counts) == list(range(1, 9))
    assert min(counts.values()) > 900
    assert max(counts.values()) < 1100
