"""What names say of their kind."""

from __future__ import annotations

import pytest

from zmqbroker.commands import consumer_of, is_consumer, is_store, store_of


@pytest.mark.parametrize(
    ("name", "store", "consumer"),
    [
        ("orders", False, False),
        ("events_store:orders", True, False),
        ("events_store:orders>billing", False, True),
        ("events_store", False, False),
        ("queues:orders", False, False),
        ("my.events_store:orders", False, False),
    ],
)
def test_name_says_its_kind(name: str, store: bool, consumer: bool) -> None:
    assert (is_store(name), is_consumer(name)) == (store, consumer)


def test_consumer_is_named_by_its_store_and_its_own_name() -> None:
    name = consumer_of("events_store:orders", "billing")
    assert name == "events_store:orders>billing"
    assert store_of(name) == store_of("events_store:orders") == "events_store:orders"
