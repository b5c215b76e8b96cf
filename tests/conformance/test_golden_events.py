"""Golden bytes of events: what is pushed to subscriptions, and what nodes tell each other of interest."""

from __future__ import annotations

from tests.conformance.test_golden_frames import BATCHES, GOLDEN, SESSION, plain
from zmqbroker.commands import Announcement, RealtimeKind, Want
from zmqbroker.realtime import Subscription
from zmqbroker.server.event_frames import missed_frames, push_frames
from zmqbroker.wire.frames import decode_header
from zmqbroker.wire.interest import announcement_fields, read_announcement

TIME_UNIX_NS = 1_700_000_000_000_000_000


def test_golden_interest_is_the_announcement_it_stands_for() -> None:
    items = [plain(item["fields"]) for item in GOLDEN["peer"] if item["name"] == "INTEREST"]
    orders = (Want(RealtimeKind.EVENTS, "orders.*", ""), 2), (Want(RealtimeKind.EVENTS, "orders.>", "billing"), 0)
    told = [
        Announcement(SESSION, 3),
        Announcement(SESSION, 4, orders),
        Announcement(SESSION, 4, ((Want(RealtimeKind.COMMANDS, "job", ""), 1),), 1, 2),
        Announcement(SESSION, 4, ask=True),
    ]
    assert [read_announcement(fields) for fields in items] == told
    assert [announcement_fields(one) for one in told] == items


def test_golden_events_are_what_a_subscription_is_sent() -> None:
    pushed, _, missed = [item for item in GOLDEN["client"] if item["name"] == "EVENTS"]
    one = Subscription(b"id", 1, Want(RealtimeKind.EVENTS, "orders", ""), 10, 1 << 20)
    one.missed = 3
    ((owner, header, batch),), size = push_frames(one, BATCHES[0], TIME_UNIX_NS)
    assert decode_header(header) == (pushed["command"], 0, pushed["fields"])
    assert (owner, batch, size) == (b"id", bytes.fromhex(pushed["bodies"][0]), len(BATCHES[0]))
    one.missed = 5
    assert missed_frames(one) == [b"id", bytes.fromhex(missed["header"])]
