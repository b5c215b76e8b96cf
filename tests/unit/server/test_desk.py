"""Requests about messages and channels at the desk: who answers, what is passed on, and for which session."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from tests.unit.server.harness import GROUP, Site, exchange, trio
from zmqbroker.commands import (
    ChannelSettings,
    Command,
    CreateChannel,
    DeleteChannel,
    DeleteMessages,
    Extend,
    Manage,
    Nack,
    Publish,
    Purge,
    Receipt,
    Redrive,
    Reject,
    Requeue,
    Run,
    Settle,
    UpdateChannel,
)
from zmqbroker.config import NodeConfig
from zmqbroker.errors import BrokerError, NotLeader
from zmqbroker.server.desk import Desk
from zmqbroker.server.replies import messages_reply
from zmqbroker.server.routes import Route
from zmqbroker.wire import codec
from zmqbroker.wire.columns import Treatment, add_columns
from zmqbroker.wire.entries import decode_entry
from zmqbroker.wire.frames import Reply, decode_header, encode_header
from zmqbroker.wire.headers import MessageHeaders, encode_message_headers
from zmqbroker.wire.peer import PeerKind
from zmqbroker.wire.requests import (
    AnyRequest,
    CloseRequest,
    Hello,
    ListChannels,
    ManageRequest,
    PeekRequest,
    ReceiveRequest,
    Send,
    SendBatch,
    SettleRequest,
    StatsRequest,
    encode_request,
)

SESSION, OTHER = b"s" * 16, b"o" * 16
HELD = (b"", "q", (Receipt(1 << 16, 1, 1),))


class Office:
    """A desk with its node's group, and all that it sends: to clients, and to other nodes."""

    def __init__(self, site: Site, *, peer: str | None = "leader") -> None:
        self.site = site
        self.told: list[tuple[bytes, int, int, dict[str, Any], list[bytes]]] = []  # to whom, code, request id, fields, bodies
        self.forwarded: list[tuple[PeerKind, dict[str, Any], list[bytes]]] = []
        self.peer = peer  # the other node, None while none is known
        node = SimpleNamespace(
            config=NodeConfig.for_test(),
            groups={GROUP: site.group},
            counters=Counter[str](),
            network=self,
            log=SimpleNamespace(size_bytes=0),
            log_room=SimpleNamespace(limit_bytes=1 << 30, taken=lambda size: None),
            disks=SimpleNamespace(refusal=lambda group: None),
            heard=lambda session, now_ns: None,
            bodies=SimpleNamespace(read=site.log.read),
            confirm="quorum",
            formation=SimpleNamespace(cluster_uid=bytes(16)),
            backups=None,
            not_leading=self.not_leading,
        )
        self.desk = Desk(node, self)  # type: ignore[arg-type]
        self.ask(Hello(SESSION))

    # --- what the desk uses: the client port and the network to other nodes -----------------------------------------------

    def send(self, routing_id: bytes, frames: Sequence[bytes]) -> bool:
        code, request_id, fields = decode_header(frames[0])
        self.told.append((routing_id, code, request_id, fields, list(frames[1:])))
        return True

    def peer_of(self, _member_id: int) -> str | None:
        return self.peer

    def peer_with(self, _uid: bytes) -> str | None:
        return self.peer

    def send_forward(self, kind: PeerKind, peer: str, fields: dict[str, Any], frames: Sequence[bytes]) -> bool:
        assert peer == self.peer
        self.forwarded.append((kind, fields, list(frames)))
        return True

    def not_leading(self, _group: int, *, outcome_unknown: bool) -> BrokerError:
        return NotLeader("another node leads", outcome_unknown=outcome_unknown, leader="tcp://leader:5590")

    # --- what a test uses --------------------------------------------------------------------------------------------------

    def ask(self, request: AnyRequest, request_id: int = 7) -> None:
        """A client of this node asks."""
        self.desk.handle([b"client", *map(bytes, encode_request(request_id, request))], 1)
        self.site.run()

    def answer(self, request: AnyRequest) -> tuple[int, dict[str, Any], list[bytes]]:
        """Code, fields and bodies of what a client is told at once."""
        self.told.clear()
        self.ask(request)
        ((routing_id, code, request_id, fields, bodies),) = self.told
        assert (routing_id, request_id) == (b"client", 7)
        return code, fields, bodies

    def commands(self) -> tuple[Command, ...]:
        """The commands of the last entry."""
        return decode_entry(self.site.log.read(GROUP, self.site.machine.applied_index)).commands


@pytest.fixture
def leader() -> Office:
    """The desk of a node that leads."""
    return Office(Site().lead())


@pytest.fixture
def follower() -> Office:
    """The desk of a node that follows, and has applied what the leader has."""
    sites = trio()
    office = Office(sites[1])
    office.ask(Send("q", b"one"))
    office.ask(ManageRequest(CreateChannel("r", ChannelSettings(delay_ms=5))))
    exchange(sites)
    for site in sites.values():
        site.group.tick()  # followers hear at the next tick what is committed
    exchange(sites)
    assert not sites[2].group.leading
    return Office(sites[2])


INQUIRIES: list[tuple[AnyRequest, AnyRequest, Reply]] = [
    (StatsRequest("q"), StatsRequest("q", forward=True), Reply.CHANNEL),
    (PeekRequest("q"), PeekRequest("q", forward=True), Reply.MESSAGES),
    (ListChannels(), ListChannels(forward=True), Reply.CHANNELS),
]


# --- who answers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("request_", "_forwarding", "code"), INQUIRIES)
def test_desk_follower_answers_an_inquiry_from_its_own_state(
    follower: Office, request_: AnyRequest, _forwarding: AnyRequest, code: Reply
) -> None:
    assert follower.answer(request_)[0] == code
    assert follower.forwarded == []


@pytest.mark.parametrize(("_plain", "forwarding", "code"), INQUIRIES)
def test_desk_follower_passes_an_inquiry_on_that_asks_for_it(
    follower: Office, _plain: AnyRequest, forwarding: AnyRequest, code: Reply
) -> None:
    follower.told.clear()
    follower.ask(forwarding)
    frames = [bytes(frame) for frame in encode_request(7, forwarding)]
    assert follower.forwarded == [(PeerKind.FORWARD, {"route": b"\0client", "session": SESSION}, frames)]
    assert follower.told == []
    follower.peer = None  # nobody knows the leader
    assert follower.answer(forwarding)[0] == code


@pytest.mark.parametrize(("_plain", "forwarding", "code"), INQUIRIES)
def test_desk_answers_an_inquiry_that_came_from_another_node_to_that_node(
    leader: Office, follower: Office, _plain: AnyRequest, forwarding: AnyRequest, code: Reply
) -> None:
    leader.ask(Send("q", b"one"))
    for office in (leader, follower):  # who does not lead any more passes it on to nobody
        fields = {"route": b"\0client", "session": OTHER}
        frames = [bytes(frame) for frame in encode_request(9, forwarding)]
        office.desk.handle_forwarded((PeerKind.FORWARD, b"u" * 16, fields, frames), 1)
        ((kind, route, reply),) = office.forwarded
        assert (kind, route) == (PeerKind.FORWARD_REPLY, {"route": b"\0client"})
        assert decode_header(reply[0])[:2] == (code, 9)


SETTLES: list[Settle] = [Nack(*HELD, 5), Reject(*HELD, "why"), Requeue(*HELD, "r"), Extend(*HELD, 100)]
MANAGES: list[Manage] = [
    *(Purge("q", True), DeleteMessages("q", ((1, 2),)), Redrive("q", "r", "s", 4)),
    *(CreateChannel("q"), UpdateChannel("q", ChannelSettings(max_bytes=5)), DeleteChannel("q")),
]
CHANGES: list[AnyRequest] = [*map(SettleRequest, SETTLES), *map(ManageRequest, MANAGES)]


@pytest.mark.parametrize("request_", CHANGES, ids=lambda request: type(request.command).__name__)
def test_desk_follower_passes_a_change_on_or_names_the_leader(follower: Office, request_: Any) -> None:
    forwarding = type(request_)(request_.command, forward=True)
    follower.ask(forwarding)
    assert [kind for kind, _, _ in follower.forwarded] == [PeerKind.FORWARD]
    code, fields, _ = follower.answer(request_)
    assert (code, fields["code"], fields["leader"]) == (Reply.ERROR, "NOT_LEADER", "tcp://leader:5590")


# --- what is told -------------------------------------------------------------------------------------------------------


def test_desk_stats_tell_counters_and_settings(leader: Office) -> None:
    leader.ask(ManageRequest(CreateChannel("q", ChannelSettings(delivery_limit=3, dead_letter="dead"))))
    leader.ask(Send("q", b"one"))
    leader.ask(Send("q", b"two", delay_ms=60_000))
    code, fields, bodies = leader.answer(StatsRequest("q"))
    stamp = fields.pop("oldest_unix_ns")
    assert (code, bodies, stamp > 0) == (Reply.CHANNEL, [], True)
    size = fields.pop("size_bytes")
    assert size == len(codec.encode_batch(b"q", [b"one"])) * 2 + 8
    assert fields == {
        "channel": "q",
        "depth": 2,
        "ready": 1,
        "in_flight": 0,
        "delayed": 1,
        "parked": 0,
        "waiting_receives": 0,
        "consumers": 0,
        "last_sequence": 2,
        "sent": 2,
        "sent_bytes": size,
        "delivered": 0,
        "delivered_bytes": 0,
        "sent_per_s": 0,
        "delivered_per_s": 0,
        "rate_window_ms": 0,
        "active": None,
        "acked": 0,
        "redelivered": 0,
        "expired": 0,
        "dead_lettered": 0,
        "moved": 0,
        "dropped": 0,
        "deduplicated": 0,
        "settings": {"delivery_limit": 3, "dead_letter": "dead"},
        "applied_index": leader.site.machine.applied_index,
    }


def test_desk_list_tells_pages_of_channels_by_name(leader: Office) -> None:
    for name in ("b", "orders.b", "a", "orders.a", "orders.c"):
        leader.ask(ManageRequest(CreateChannel(name)))

    def listed(request: ListChannels) -> tuple[list[str], bool]:
        code, fields, _ = leader.answer(request)
        assert code == Reply.CHANNELS
        return [row["channel"] for row in fields["channels"]], fields["more"]

    assert listed(ListChannels()) == (["a", "b", "orders.a", "orders.b", "orders.c"], False)
    assert listed(ListChannels("orders", count_max=2)) == (["orders.a", "orders.b"], True)
    assert leader.answer(ListChannels("orders", count_max=2))[1]["after"] == "orders.b"
    assert listed(ListChannels("orders", "orders.b", 2)) == (["orders.c"], False)
    assert listed(ListChannels("none")) == ([], False)
    row = leader.answer(ListChannels("b", count_max=1))[1]["channels"][0]
    assert row == leader.answer(StatsRequest("b"))[1]


def test_desk_peek_tells_messages_in_both_forms_and_touches_none(leader: Office) -> None:
    leader.ask(SendBatch(codec.encode_batch(b"q", [b"one", b"two", b"three"])))
    code, fields, (frame,) = leader.answer(PeekRequest("q", 2, count_max=5))
    ((assigning, first, last, delivery_count, stamp, origin, seen),) = fields["pieces"]
    assert (origin, seen) == (None, {"state": "ready"})
    assert (code, assigning, first, last, delivery_count) == (Reply.MESSAGES, 0, 2, 3, 0)
    assert codec.decode_batch(frame).bodies == [b"two", b"three"]
    code, fields, bodies = leader.answer(PeekRequest("q", plain=True))
    same = {"assigning": 0, "delivery_count": 0, "time_unix_ns": stamp, "state": "ready"}
    assert fields["messages"] == [{"sequence": 1, "id": "", "metadata": "", "tags": {}, **same}]
    assert bodies == [b"one"]
    assert leader.answer(PeekRequest("q", since_unix_ns=stamp + 1))[1:] == ({"pieces": []}, [])
    assert leader.answer(StatsRequest("q"))[1]["ready"] == 3


def test_desk_peek_tells_the_state_of_each_message_and_when_a_delayed_one_is_due(leader: Office) -> None:
    leader.ask(Send("q", b"held"))
    leader.ask(ReceiveRequest("q"))
    leader.ask(Send("q", b"later", delay_ms=60_000))
    leader.ask(Send("q", b"now"))
    pieces = leader.answer(PeekRequest("q", count_max=5))[1]["pieces"]
    due_unix_ns = pieces[1][6].pop("due_unix_ns")
    assert due_unix_ns >= pieces[1][4] + 60_000_000_000
    assert [piece[6] for piece in pieces] == [{"state": "in_flight"}, {"state": "delayed"}, {"state": "ready"}]
    messages = leader.answer(PeekRequest("q", count_max=5, plain=True))[1]["messages"]
    assert [(message["state"], message.get("due_unix_ns")) for message in messages] == [
        ("in_flight", None),
        ("delayed", due_unix_ns),
        ("ready", None),
    ]


def test_desk_stats_name_the_active_consumer_and_what_its_client_calls_itself(leader: Office) -> None:
    leader.ask(ManageRequest(CreateChannel("q", ChannelSettings(single_active=True))))
    leader.ask(Send("q", b"one"))
    leader.ask(Hello(SESSION, "till-1"))
    leader.ask(ReceiveRequest("q", consumer=3, consumer_priority=4))
    told = leader.answer(StatsRequest("q"))[1]
    assert told["active"] == {"session": SESSION.hex(), "consumer": 3, "client_id": "till-1"}
    assert (told["consumers"], told["delivered"], told["settings"]) == (1, 1, {"single_active": True})
    leader.ask(CloseRequest(3))
    assert leader.answer(StatsRequest("q"))[1]["active"] is None


@pytest.mark.parametrize("request_", [StatsRequest("nobody"), PeekRequest("nobody")])
def test_desk_inquiry_about_a_channel_that_is_not_there_is_refused(leader: Office, request_: AnyRequest) -> None:
    code, fields, _ = leader.answer(request_)
    assert (code, fields["code"]) == (Reply.ERROR, "CHANNEL_NOT_FOUND")
    assert "'nobody'" in fields["message"]


def test_desk_of_a_node_without_a_cluster_has_no_channels(leader: Office) -> None:
    leader.desk._node.groups.clear()
    assert leader.answer(ListChannels(forward=True))[1] == {"channels": [], "more": False}
    for request in (StatsRequest("q", forward=True), PeekRequest("q", forward=True)):
        assert leader.answer(request)[1]["code"] == "CHANNEL_NOT_FOUND"


# --- what is done -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", SETTLES, ids=lambda command: type(command).__name__)
def test_desk_settles_for_the_session_of_the_connection_whatever_the_client_says(leader: Office, command: Settle) -> None:
    leader.ask(Send("q", b"one"))
    header = bytes(encode_request(7, SettleRequest(command))[0])
    code, request_id, fields = decode_header(header)
    leader.desk.handle([b"client", encode_header(code, request_id, {**fields, "session": OTHER})], 1)
    leader.site.run()
    assert leader.commands() == (type(command)(SESSION, *values(command)[1:]),)


def values(command: Any) -> list[Any]:
    """The values of a command, in order."""
    return [getattr(command, name) for name in command.__dataclass_fields__]


@pytest.mark.parametrize("command", SETTLES, ids=lambda command: type(command).__name__)
def test_desk_settles_what_came_from_another_node_for_the_session_that_it_names(leader: Office, command: Settle) -> None:
    leader.ask(Send("q", b"one"))
    frames = [bytes(frame) for frame in encode_request(9, SettleRequest(command, forward=True))]
    leader.desk.handle_forwarded((PeerKind.FORWARD, b"u" * 16, {"route": b"\0c", "session": OTHER}, frames), 1)
    leader.site.run()
    assert leader.commands() == (type(command)(OTHER, *values(command)[1:]),)


@pytest.mark.parametrize("command", MANAGES, ids=lambda command: type(command).__name__)
def test_desk_manages_as_it_is_asked(leader: Office, command: Manage) -> None:
    leader.ask(Send("q", b"one"))
    leader.ask(ManageRequest(command), 8)
    assert leader.commands() == (command,)
    if isinstance(command, UpdateChannel | DeleteChannel):
        assert (8, Reply.CHANGED, {"channel": "q", "changed": True, "confirm": "quorum"}) in leader.site.host.replies
    elif isinstance(command, CreateChannel):
        assert (8, Reply.CHANGED, {"channel": "q", "changed": False, "confirm": "quorum"}) in leader.site.host.replies
    else:
        count = 0 if isinstance(command, Redrive) else 1
        assert (8, Reply.DONE, {"count": count, "confirm": "quorum"}) in leader.site.host.replies


def test_desk_nack_of_what_is_held_makes_it_ready_and_of_what_is_not_is_stale(leader: Office) -> None:
    leader.ask(Send("q", b"one"))
    leader.ask(ReceiveRequest("q"))
    ((_, delivery),) = leader.site.host.delivered
    held = (delivery.pieces[0].receipt,)
    for number in (8, 9):
        leader.ask(SettleRequest(Nack(b"", "q", held)), number)
    assert (8, Reply.DONE, {"count": 1, "confirm": "quorum"}) in leader.site.host.replies
    ((request_id, error),) = leader.site.host.refused
    stale = [[held[0].assigning, 1, 1]]
    assert (request_id, error.code, error.fields) == (9, "STALE_RECEIPT", {"stale": stale, "count": 0})


def test_desk_send_with_delay_expiry_priority_and_group_becomes_a_batch_with_columns(leader: Office) -> None:
    leader.ask(Send("q", b"body", id="i", metadata="m", delay_ms=1, expiry_ms=2, priority=3, group="g"))
    (command,) = leader.commands()
    assert isinstance(command, Publish)
    assert command.runs == (Run(1, 1, 2, 3, "g"),)
    assert command.header.columns == 0b111111


def test_desk_send_batch_with_columns_and_compressed_bodies_is_served(leader: Office) -> None:
    frame = add_columns(codec.encode_batch(b"q", [b"a", b"b"]), 2, [Treatment(5), Treatment(0, 6, 7)])
    leader.ask(SendBatch(resealed(frame[:34] + struct.pack("<H", 1) + frame[36:])))
    (command,) = leader.commands()
    assert isinstance(command, Publish)
    assert command.runs == (Run(1, 5), Run(1, 0, 6, 7))
    assert command.header.flags == 1


def resealed(frame: bytes) -> bytes:
    """The frame with the checksum that fits its bytes."""
    return frame[:4] + struct.pack("<I", codec.crc32c(frame[8:])) + frame[8:]


def test_desk_send_batch_with_a_column_that_is_not_served_is_unsupported(leader: Office) -> None:
    plain = codec.encode_batch(b"q", [b"a"])
    column = struct.pack("<I", 1) + b"k"
    frame = bytearray(plain[:-1] + column + plain[-1:])
    struct.pack_into("<I", frame, 8, len(frame))
    struct.pack_into("<H", frame, 32, 1 << 6)
    code, fields, _ = leader.answer(SendBatch(resealed(bytes(frame))))
    assert (code, fields["code"]) == (Reply.ERROR, "UNSUPPORTED")
    assert fields["message"] == "batch columns 0x40: this version serves 0x3f"


@pytest.mark.parametrize("receives", [False, True])
def test_desk_plain_messages_fit_the_header_of_their_reply_whatever_their_headers_are(leader: Office, receives: bool) -> None:
    """More of them than a header frame takes ended the node, when they did not count."""
    headers = encode_message_headers(MessageHeaders("x" * 65_000))
    frame = codec.encode_batch(b"q", [b""] * 15, 0, 0, None, [headers] * 15)
    for _ in range(90):
        leader.ask(SendBatch(frame))
    if receives:
        leader.ask(ReceiveRequest("q", 1, 65_535, 16 << 20, plain=True))
        ((_, delivery),) = leader.site.host.delivered
        fields, bodies = messages_reply(delivery.pieces, lambda index: leader.site.log.read(GROUP, index), plain=True)
        leader.desk.send(Route(b"client", False), Reply.MESSAGES, 7, fields, bodies)
        assert len(leader.told[-1][4]) == (16 << 20) * 15 // len(frame)
    else:
        peek = PeekRequest("q", count_max=65_535, size_max=16 << 20, plain=True)
        assert len(leader.answer(peek)[2]) == (16 << 20) * 15 // len(frame)
        assert len(leader.answer(replace(peek, plain=False))[2]) == (16 << 20) // len(frame) + 1, "they are in batch frames"
