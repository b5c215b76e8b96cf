"""Subscriptions and events at nodes that talk to each other: who gets what, what is missed, and who is forgotten."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.server.realtime_sites import TIMEOUT_NS, Site, Sites
from zmqbroker.commands import RealtimeKind
from zmqbroker.errors import ChecksumMismatch, InvalidChannel, InvalidRequest, MessageTooLarge, RequestError, Unsupported
from zmqbroker.server.event_losses import EventLosses
from zmqbroker.server.replies import PLAIN_COUNT_MAX
from zmqbroker.wire import codec
from zmqbroker.wire.columns import Treatment, add_columns
from zmqbroker.wire.frames import Reply
from zmqbroker.wire.headers import MessageHeaders, encode_message_headers
from zmqbroker.wire.peer import PeerKind
from zmqbroker.wire.requests import (
    AnyRequest,
    GrantRequest,
    PublishRequest,
    Send,
    SendBatch,
    SubscribeRequest,
    UnsubscribeRequest,
)


def batch(name: str, *bodies: bytes, **columns: Any) -> bytes:
    return codec.encode_batch(name.encode(), list(bodies), **columns)


def publish(site: Site, name: str, *bodies: bytes) -> tuple[int, int]:
    """Publish; nodes and subscribers of PUBLISHED."""
    site.replies.clear()
    site.ask(PublishRequest(batch(name, *bodies), True), b"publisher")
    ((code, fields),) = site.replies
    assert code is Reply.PUBLISHED
    return fields["nodes"], fields["subscribers"]


def bodies(site: Site, client: bytes = b"client") -> list[bytes]:
    """The bodies of all batches that a client was sent."""
    return [body for one in site.pushed(client) for body in codec.decode_batch(one.bodies[0]).bodies]


@pytest.fixture
def trio() -> Sites:
    return Sites("a", "b", "c")


def test_event_goes_to_every_subscription_on_every_node_as_one_frame_per_node(trio: Sites) -> None:
    one, two, three = trio
    for site in trio:
        site.ask(SubscribeRequest(1, "orders.*"), b"x")
        site.ask(SubscribeRequest(2, "orders.>"), b"y")
        assert site.replies == [(Reply.SUBSCRIBED, {"subscription": 1}), (Reply.SUBSCRIBED, {"subscription": 2})]
    trio.travelled.clear()
    frame = batch("orders.new", b"1", b"2")
    one.ask(PublishRequest(frame), b"publisher")
    assert [kind for _, kind, _ in trio.travelled] == [PeerKind.EVENTS] * 2
    for site in (one, two, three):
        (x,), (y,) = site.pushed(b"x"), site.pushed(b"y")
        assert (x.subscription, x.missed, x.bodies) == (1, 0, [frame])
        assert (y.subscription, y.missed, y.bodies) == (2, 0, [frame])
        assert x.fields == y.fields
        assert x.fields["time_unix_ns"] > 0
    assert publish(one, "orders.old.1", b"3") == (3, 3)
    assert publish(two, "other", b"4") == (0, 0)
    assert (one.counters["events_in"], one.counters["events_out"]) == (3, 5)


def test_publish_without_confirm_is_silent(trio: Sites) -> None:
    one = next(iter(trio))
    one.ask(PublishRequest(batch("a", b"1")))
    assert one.replies == []


def test_group_shares_a_batch_among_all_its_members_wherever_they_are(trio: Sites) -> None:
    one, two, three = trio
    for site, members in ((one, 1), (two, 2)):
        for number in range(members):
            site.ask(SubscribeRequest(number, "orders.*", group="g"), b"g%d" % number)
    three.ask(SubscribeRequest(9, "orders.*"), b"all")
    assert publish(three, "orders.new", *(b"%d" % number for number in range(6))) == (3, 2)
    got = [bodies(one, b"g0"), bodies(two, b"g0"), bodies(two, b"g1")]
    assert sorted(map(len, got)) == [2, 2, 2]
    assert sorted(got[0] + got[1] + got[2]) == bodies(three, b"all") == [b"%d" % number for number in range(6)]


def test_group_with_members_at_the_publishers_node_and_others_whose_credit_ends_is_counted(trio: Sites) -> None:
    one, two, _ = trio
    one.ask(SubscribeRequest(1, "a", group="g"), b"near")
    two.ask(SubscribeRequest(1, "a", group="g", credit=1), b"far")
    two.ask(SubscribeRequest(1, "a"), b"all")
    assert publish(one, "a", *(b"%d" % number for number in range(6))) == (2, 2)
    near, far = bodies(one, b"near"), bodies(two, b"far")
    assert (len(near), len(far), two.counters["events_missed"]) == (3, 1, 2)
    assert not set(near) & set(far)
    assert len(bodies(two, b"all")) == 6


def test_group_and_everyone_at_a_node_get_one_frame_together(trio: Sites) -> None:
    one, two, _ = trio
    two.ask(SubscribeRequest(1, "a"), b"all")
    two.ask(SubscribeRequest(1, "a", group="g"), b"member")
    trio.travelled.clear()
    assert publish(one, "a", b"1", b"2") == (1, 2)
    assert [fields["groups"] for _, kind, fields in trio.travelled if kind is PeerKind.EVENTS] == [[["a", "g"]]]
    assert bodies(two, b"all") == bodies(two, b"member") == [b"1", b"2"]


def test_group_member_at_a_node_out_of_reach_leaves_its_share_to_the_others(trio: Sites) -> None:
    one, two, three = trio
    for site in (two, three):
        site.ask(SubscribeRequest(1, "a", group="g"))
    trio.broken.add(three.uid)
    for number in range(4):
        assert publish(one, "a", b"%d" % number) == (1, 1)
    assert bodies(two) == [b"0", b"1", b"2", b"3"]
    trio.broken.add(two.uid)
    assert publish(one, "a", b"5", b"6") == (0, 1)
    assert one.counters["events_lost"] == 2


def test_member_whose_connection_is_gone_is_dropped_and_the_next_one_gets_it(trio: Sites) -> None:
    one, two, _ = trio
    two.ask(SubscribeRequest(1, "a", group="g"), b"x")
    two.ask(SubscribeRequest(1, "a", group="g"), b"y")
    two.lose(b"x")
    for number in range(3):
        publish(one, "a", b"%d" % number)
    assert bodies(two, b"y") == [b"0", b"1", b"2"]
    assert two.realtime.interest.owners() == [b"y"]
    two.lose(b"y")
    publish(one, "a", b"3", b"4")
    assert two.counters["events_lost"] == 2
    publish(one, "a", b"5")  # no node has heard yet that nobody is left
    assert two.counters["events_lost"] == 3
    two.realtime.announce()
    trio.run()
    assert publish(one, "a", b"6") == (0, 0)


def test_slow_subscriber_misses_counts_and_hears_of_it_with_the_next_and_after_a_grant(trio: Sites) -> None:
    one, two, _ = trio
    two.ask(SubscribeRequest(1, "a", credit=3))
    publish(one, "a", b"1", b"2")
    publish(one, "a", b"3", b"4", b"5")
    publish(one, "a", b"6")
    first, second = two.pushed()
    assert codec.decode_batch(second.bodies[0]).bodies == [b"3"]
    assert (first.missed, second.missed, two.counters["events_missed"]) == (0, 2, 3)
    two.ask(GrantRequest(1, 4, 1 << 20))
    (told,) = two.pushed()
    assert (told.missed, told.bodies, told.fields) == (3, [], {})
    two.ask(GrantRequest(1, 4, 1 << 20))
    assert two.pushed() == []
    publish(one, "a", b"7")
    (third,) = two.pushed()
    assert (third.missed, codec.decode_batch(third.bodies[0]).bodies) == (3, [b"7"])
    two.ask(UnsubscribeRequest(1))
    two.ask(UnsubscribeRequest(1))
    assert two.replies[-2:] == [(Reply.UNSUBSCRIBED, {"missed": 3}), (Reply.UNSUBSCRIBED, {"missed": 0})]


def test_subscriber_without_room_misses_and_keeps_its_credit(trio: Sites) -> None:
    one, two, _ = trio
    two.ask(SubscribeRequest(1, "a", credit=2))
    two.ask(SubscribeRequest(1, "a", group="g", credit=1), b"member")
    two.fill(b"client")
    two.fill(b"member")
    publish(one, "a", b"1")
    two.refusing.clear()
    publish(one, "a", b"2")
    ((_, missed, _, _),), ((_, of_group, _, _),) = two.pushed(), two.pushed(b"member")
    assert (missed, of_group, two.counters["events_missed"], two.counters["events_out"]) == (1, 1, 2, 2)


def test_plain_subscriber_gets_messages_one_by_one(trio: Sites) -> None:
    one, two, _ = trio
    two.ask(SubscribeRequest(1, "a", plain=True), delimiter=True)
    headers = encode_message_headers(MessageHeaders("m", {"k": "v"}, "till", "trace"))
    frame = batch("a", b"1", b"2", ids=[b"i", b""], headers=[headers, b""])
    one.ask(PublishRequest(frame))
    assert two.sent[b"client"][0][0] == b""
    (got,) = two.pushed()
    common = {"channel": "a"}
    assert got.bodies == [b"1", b"2"]
    assert got.fields["messages"] == [
        {**common, "id": "i", "metadata": "m", "tags": {"k": "v"}, "client_id": "till", "trace": "trace"},
        {**common, "id": "", "metadata": "", "tags": {}},
    ]
    assert got.fields["time_unix_ns"] > 0


def test_plain_push_has_a_bounded_number_of_messages(trio: Sites) -> None:
    one = next(iter(trio))
    one.ask(SubscribeRequest(1, "a", plain=True, credit=10_000))
    publish(one, "a", *[b""] * (PLAIN_COUNT_MAX + 1))
    assert [len(got.bodies) for got in one.pushed()] == [PLAIN_COUNT_MAX, 1]
    one.lose(b"client")
    publish(one, "a", *[b""] * (PLAIN_COUNT_MAX + 1))
    assert one.realtime.interest.count == 0


def test_batch_for_a_socket_with_delimiter_has_it(trio: Sites) -> None:
    one = next(iter(trio))
    one.ask(SubscribeRequest(1, "a"), delimiter=True)
    publish(one, "a", b"1")
    assert [len(message) for message in one.sent[b"client"]] == [3]
    assert bodies(one) == [b"1"]


@pytest.mark.parametrize(
    ("request_", "error", "text"),
    [
        (PublishRequest(b"short"), RequestError, "a batch frame of 5 bytes is shorter than its 40 byte header"),
        (PublishRequest(batch("a.*", b"1")), InvalidChannel, "events name 'a.*' holds '*', which names more than one channel"),
        (PublishRequest(batch("a", b"1", producer=5, base_sequence=1)), InvalidRequest, "producer of a batch of events is 5"),
        (
            PublishRequest(add_columns(batch("a", b"1"), 1, [Treatment(delay_ms=5)])),
            Unsupported,
            "columns of a batch of events",
        ),
        (PublishRequest(batch("a", b"1")[:-1] + b"2"), ChecksumMismatch, "a batch frame says crc32c"),
        (PublishRequest(batch("a", bytes(1 << 21))), MessageTooLarge, "a batch frame has"),
        (Send("events:a", b"", 5, 1), InvalidRequest, "field producer is 5: events are not stored and have none"),
        (Send("events:a", b"", delay_ms=5), InvalidRequest, "field delay_ms is 5: events are not stored and have none"),
        (Send("events:a", b"", expiry_ms=5), InvalidRequest, "field expiry_ms is 5: events are not stored and have none"),
        (Send("events:a", b"", priority=5), InvalidRequest, "field priority is 5: events are not stored and have none"),
        (Send("events:a", b"", group="g"), InvalidRequest, "field group is 'g': events are not stored and have none"),
        (Send("events:a", b"", expected_sequence=0), InvalidRequest, "field expected_sequence is 0: events are not stored"),
        (Send("events:a", b"", explain=True), InvalidRequest, "field explain is True: events are not stored and have none"),
        (SendBatch(batch("events:a", b""), explain=True), InvalidRequest, "field explain is True: events are not stored"),
        (SendBatch(batch("events:a.", b"")), InvalidChannel, "events name 'a.' ends with '.'"),
        (GrantRequest(5, 1, 1), InvalidRequest, "field subscription is 5, which this connection has not subscribed with"),
    ],
)
def test_request_that_breaks_a_rule_is_refused_with_it(
    trio: Sites, request_: AnyRequest, error: type[RequestError], text: str
) -> None:
    one = next(iter(trio))
    one.ask(SubscribeRequest(1, ">"), b"all")
    with pytest.raises(error) as caught:
        one.ask(request_)
    assert caught.value.message.startswith(text)
    assert one.pushed(b"all") == []


def test_sends_to_events_publish(trio: Sites) -> None:
    one, two, _ = trio
    two.ask(SubscribeRequest(1, "a.b"))
    one.ask(Send("events:a.b", b"1", id="i", metadata="m"))
    one.ask(SendBatch(batch("events:a.b", b"2", b"3")))
    first, second = two.pushed()
    assert codec.decode_batch(first.bodies[0]).header.channel == "a.b"
    assert codec.decode_batch(first.bodies[0]).ids == [b"i"]
    assert second.bodies == [batch("a.b", b"2", b"3")]
    for (code, fields), count in zip(one.replies, (1, 2), strict=True):
        assert code is Reply.SENT
        told = {"sequence": 0, "count": count, "duplicate": False, "confirm": "none", "nodes": 1, "subscribers": 1}
        assert fields == {**told, "time_unix_ns": fields["time_unix_ns"]}


def test_events_that_did_not_leave_for_a_node_are_missed_by_its_subscribers(trio: Sites) -> None:
    one, two, three = trio
    for site in (two, three):
        site.ask(SubscribeRequest(1, "a.*"), b"all")
        site.ask(SubscribeRequest(1, "a.b", group="g"), b"member")
    trio.sweep(0)
    trio.broken |= {two.uid, three.uid}
    publish(one, "a.b", b"1", b"2")
    publish(one, "a.c", b"3")
    trio.sweep(1)
    trio.broken.discard(two.uid)
    trio.sweep(2)
    assert [got.missed for got in two.pushed(b"all")] == [2, 3]
    assert two.pushed(b"member") == []
    trio.sweep(3)
    assert two.pushed(b"all") == []
    one.realtime.node_gone(three.uid)
    trio.broken.clear()
    trio.sweep(4)
    assert three.pushed(b"all") == []
    assert (one.counters["events_unsent"], two.counters["events_missed"]) == (2 * 2 + 2 * 1, 3)


def test_losses_of_a_bounded_number_of_names_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zmqbroker.server.event_losses.NAMES_MAX", 2)
    losses = EventLosses()
    for name in ("a", "b", "c", "a"):
        losses.add(b"uid", name, 1)
    told: list[Any] = []
    reached = False

    def tell(uid: bytes, rows: list[list[str | int]]) -> bool:
        told.append((uid, rows))
        return reached

    losses.report(tell)
    reached = True
    losses.report(tell)
    losses.report(tell)
    assert told == [(b"uid", [["a", 2], ["b", 1]])] * 2


def test_connection_that_is_forgotten_has_no_subscriptions(trio: Sites) -> None:
    one, two, _ = trio
    two.ask(SubscribeRequest(1, "a"))
    trio.sweep(0)
    assert publish(one, "a", b"1") == (1, 1)
    two.connections.sweep(TIMEOUT_NS + 1)
    trio.sweep(0)
    assert publish(one, "a", b"2") == (0, 0)


def test_node_that_is_silent_is_forgotten_and_heard_again_when_it_is_back(trio: Sites) -> None:
    one, _, three = trio
    three.ask(SubscribeRequest(1, "a"))
    trio.sweep(0)
    trio.broken.add(three.uid)
    for second in range(1, 7):
        trio.sweep(second * 1_000_000_000)
    assert one.realtime.interest.find(RealtimeKind.EVENTS, "a").subscribers == 0
    trio.broken.clear()
    trio.sweep(7_000_000_000)
    assert publish(one, "a", b"1") == (1, 1)


def test_change_that_was_lost_is_asked_for_at_the_next_one(trio: Sites) -> None:
    one, _, three = trio
    trio.sweep(0)
    trio.broken.add(one.uid)
    three.ask(SubscribeRequest(1, "a"))
    trio.broken.clear()
    three.ask(SubscribeRequest(2, "b"))
    assert publish(one, "a", b"1") == (0, 0)  # asked so shortly before that the answer may be on its way
    trio.sweep(1_000_000_000)
    assert publish(one, "a", b"1") == (1, 1)


@pytest.mark.parametrize(
    ("kind", "fields", "frames"),
    [
        (PeerKind.INTEREST, {"run": 5}, []),
        (PeerKind.EVENTS, {"time_unix_ns": 1}, []),
        (PeerKind.EVENTS, {"time_unix_ns": 1}, [b"no batch"]),
        (PeerKind.EVENTS, {}, [batch("a", b"1")]),
        (PeerKind.EVENTS, {"time_unix_ns": 1, "groups": 5}, [batch("a", b"1")]),
        (PeerKind.EVENTS, {"lost": 5}, []),
        (PeerKind.EVENTS, {"lost": [["a", 0]]}, []),
        (PeerKind.EVENTS, {"lost": [[5, 1]]}, []),
        (PeerKind.EVENTS, {"time_unix_ns": 1, "groups": [5]}, [batch("a", b"1")]),
        (PeerKind.EVENTS, {"time_unix_ns": 1, "everyone": 1}, [batch("a", b"1")]),
    ],
)
def test_peer_frame_that_breaks_its_shape_is_dropped_and_counted(
    trio: Sites, kind: PeerKind, fields: dict[str, Any], frames: list[bytes]
) -> None:
    one = next(iter(trio))
    one.realtime.on_peer((kind, b"b" * 16, fields, frames), 0)
    assert sum(count for name, count in one.counters.items() if name.startswith("peer_frames_dropped_")) == 1


def test_events_for_a_group_that_ended_meanwhile_are_counted_as_lost(trio: Sites) -> None:
    one = next(iter(trio))
    fields = {"time_unix_ns": 1, "groups": [["a", "g"]]}
    one.realtime.on_peer((PeerKind.EVENTS, b"b" * 16, fields, [batch("a", b"1")]), 0)
    assert +one.counters == {"events_lost": 1}
