"""Names of replicated channels by their kind: docs/PROTOCOL.md §3, channel names."""

from __future__ import annotations

import pytest

from zmqbroker.wire.frames import channel_fault


@pytest.mark.parametrize("name", ["orders", "events_store:orders", "events_store:a.b>billing", "a:b", "events_store"])
def test_name_of_a_queue_a_store_or_a_consumer_is_fine(name: str) -> None:
    assert channel_fault(name) is None


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("events:orders", "begins with 'events:', which no replicated channel does"),
        ("queues:orders", "begins with 'queues:', which no replicated channel does"),
        ("routes:", "begins with 'routes:', which no replicated channel does"),
        ("events_store:", "ends where a name must follow"),
        ("events_store:orders>", "ends where a name must follow"),
        ("events_store:>billing", "ends where a name must follow"),
        ("events_store:orders>a>b", "holds '>', which names more than one channel"),
        ("orders>billing", "holds '>', which names more than one channel"),
        ("events_store:a b", "holds white space or a control character, ' '"),
    ],
)
def test_name_that_breaks_a_rule_is_told_which(name: str, rule: str) -> None:
    assert channel_fault(name) == f"channel name {name!r} {rule}"
