"""The bytes of golden_frames.json: every kind of frame of docs/PROTOCOL.md, both ways, where there are twins with both.

The file is for writers of clients in other languages too: it may grow, but what is in it never changes within a protocol
version.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from zmqbroker.commands import (
    Ack,
    ChannelSettings,
    Close,
    CreateChannel,
    DeleteBinding,
    DeleteChannel,
    DeleteMessages,
    DeleteRoute,
    DeleteSchedule,
    Destination,
    Extend,
    Member,
    Nack,
    OpenProducer,
    Plan,
    Publish,
    Purge,
    Receipt,
    Receive,
    ReceiveKey,
    Redrive,
    Reject,
    Requeue,
    SetBinding,
    SetDefaults,
    SetRoute,
    Tick,
    Trim,
    UpdateChannel,
)
from zmqbroker.raft.messages import Entry, Message, MessageType
from zmqbroker.wire import codec, requests
from zmqbroker.wire.batch import BatchContents
from zmqbroker.wire.call_tables import encode_call_table, encode_respond_table
from zmqbroker.wire.entries import EntryBuilder, decode_entry
from zmqbroker.wire.frames import Reply, Request, decode_header, encode_header
from zmqbroker.wire.membership import members_from_wire, members_to_wire
from zmqbroker.wire.peer import ENVELOPE_SIZE, Envelope, PeerKind, decode_fields, encode_peer
from zmqbroker.wire.requests import (
    AckRequest,
    AnyRequest,
    ChangeMembers,
    CloseRequest,
    CreateScheduleRequest,
    Hello,
    Info,
    ListChannels,
    ListDefaults,
    ListSchedules,
    ManageRequest,
    OpenProducerRequest,
    PeekRequest,
    Ping,
    ReceiveRequest,
    Send,
    SendBatch,
    SettleRequest,
    StatsRequest,
    Transfer,
    decode_request,
    encode_request,
)

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent / "golden_frames.json").read_text(encoding="utf-8"))
BATCHES = [bytes.fromhex(item["frame"]) for item in GOLDEN["batches"]]
TREATED = [bytes.fromhex(item["frame"]) for item in GOLDEN["treated_batches"]]
SESSION = bytes(range(16))


def plain(value: Any) -> Any:
    """A value of the file with its binary parts as bytes."""
    if isinstance(value, dict):
        return bytes.fromhex(value["hex"]) if set(value) == {"hex"} else {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


def load(name: str) -> ModuleType:
    """One of two twins; the test is skipped where it was not built."""
    try:
        return importlib.import_module(f"zmqbroker.wire.{name}")
    except ImportError as error:
        pytest.skip(f"the compiled {name} is not built here: {error}")


@pytest.fixture(params=["_codec_py", "_codec"])
def twin(request: pytest.FixtureRequest) -> ModuleType:
    return load(request.param)


@pytest.fixture(params=["_peer_py", "_peer"])
def peer_twin(request: pytest.FixtureRequest) -> ModuleType:
    return load(request.param)


# --- batches ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("item", GOLDEN["batches"], ids=lambda item: item["name"])
def test_golden_batch_both_ways(twin: ModuleType, item: dict[str, Any]) -> None:
    frame, values = bytes.fromhex(item["frame"]), plain(item["values"])
    assert twin.encode_batch(**{**values, "channel": values["channel"].encode()}) == frame
    contents: BatchContents = twin.decode_batch(frame)
    assert contents[1:] == (values["bodies"], values["ids"], values["headers"])
    header = contents.header
    assert (header.channel, header.count) == (values["channel"], len(values["bodies"]))
    assert (header.producer, header.base_sequence) == (values["producer"], values["base_sequence"])


# --- client frames ---------------------------------------------------------------------------------------------------


def client_name(item: dict[str, Any]) -> str:
    return f"{item['name']}-{len(item['fields'])}"


@pytest.mark.parametrize("item", GOLDEN["client"], ids=client_name)
def test_golden_client_header_both_ways(item: dict[str, Any]) -> None:
    header, fields = bytes.fromhex(item["header"]), plain(item["fields"])
    assert decode_header(header) == (item["command"], item["request_id"], fields)
    assert encode_header(item["command"], item["request_id"], fields) == header


SETTINGS = ChannelSettings(5, "orders.dead", 1000, 86_400_000, 1000, 1 << 20, "dead_letter", 64)
SAID = ChannelSettings(delay_ms=1000, max_age_ms=86_400_000)
NIGHTLY, BEAT = Plan(cron="0 3 * * MON-FRI"), Plan(5000, 0, 100, "", 3, 1_800_000_000_000_000_000)
HELD = (b"", "orders", (Receipt(655_360, 1, 4),))

TO = (
    Destination("queues", "orders"),
    Destination("events", "orders.new"),
    Destination("events_store", "orders"),
    Destination("routes", "audit"),
)
ROUTING: list[AnyRequest] = [
    requests.RoutedSend(TO, Send("", b"hello")),
    requests.RoutedSend(TO[::2], Send("", b"hello", 5, 1, "a-1", forward=True, expected_sequence=0)),
    requests.RoutedSend(TO, SendBatch(BATCHES[0])),
    requests.OpenProducers(TO, 5, True),
    ManageRequest(SetRoute("audit", "audit.eu;events:audit")),
    ManageRequest(SetRoute("audit", "audit.eu"), forward=True),
    ManageRequest(DeleteRoute("audit")),
    requests.ListRoutes(),
    requests.ListRoutes("au", "a", 100, True),
    ManageRequest(SetBinding("events_store:orders.*", "billing;audit")),
    ManageRequest(DeleteBinding("events_store:orders.*")),
    requests.ListBindings(),
    requests.ListBindings("orders", "events:a", 100, True),
]

REQUESTS: list[AnyRequest] = [
    Hello(SESSION, "till-1"),
    Ping(),
    Info(),
    Send("orders", b"hello"),
    Send("orders", b"", 5, 1, "a-1", "m", {"eu": "yes"}, forward=True),
    SendBatch(BATCHES[0]),
    SendBatch(BATCHES[2], True),
    Send("orders", b"hello", explain=True),
    ReceiveRequest("orders"),
    ReceiveRequest("orders", 2, 100, 65_536, 5_000, 60_000, 3, True, True, auto_ack=True),
    AckRequest("orders", (Receipt(655_360, 1, 4), Receipt(655_361, 6, 6))),
    OpenProducerRequest("orders", 0x0102030405060708),
    StatsRequest("orders"),
    StatsRequest("orders", True),
    requests.AuditRequest(),
    requests.AuditRequest(70, forward=True),
    requests.AuditRequest(70, 255, b"\1\0\0\0\1"),
    requests.BackupRequest(SESSION),
    requests.BackupRequest(SESSION, 1 << 20, 70),
    CloseRequest(3),
    CloseRequest(),
    ChangeMembers("add", "n4", learner=True),
    ChangeMembers("replace", "n2", "n5"),
    ChangeMembers("remove", "n3", forward=True),
    Transfer("n2"),
    Transfer(),
    Send("orders", b"hello", delay_ms=60_000, expiry_ms=3_600_000, priority=9),
    SendBatch(TREATED[0]),
    SettleRequest(Nack(b"", "orders", (Receipt(655_360, 1, 4), Receipt(655_361, 6, 6)))),
    SettleRequest(Nack(*HELD, delay_ms=1500), forward=True),
    SettleRequest(Nack(*HELD, behind=True)),
    SettleRequest(Reject(*HELD, "no such article")),
    SettleRequest(Requeue(*HELD, "orders.slow")),
    SettleRequest(Extend(*HELD, 60_000)),
    ManageRequest(Purge("orders")),
    ManageRequest(Purge("orders", in_flight=True)),
    ManageRequest(DeleteMessages("orders", ((3, 3), (7, 9)))),
    ManageRequest(Redrive("orders.dead")),
    ManageRequest(Redrive("orders.dead", "orders.again", "orders", 10)),
    ManageRequest(Redrive("orders.dead", first=501)),
    PeekRequest("orders"),
    PeekRequest("orders", 3, 1_700_000_000_000_000_000, 100, 65_536, True, True),
    ManageRequest(CreateChannel("orders")),
    ManageRequest(CreateChannel("orders", SETTINGS)),
    ManageRequest(UpdateChannel("orders", ChannelSettings())),
    ManageRequest(DeleteChannel("orders")),
    ListChannels(),
    ListChannels("ord", "orders", 100, True),
    requests.HandOverRequest("orders", (Receipt(655_360, 1, 4),), (BATCHES[0],)),
    requests.HandOverRequest("orders", (Receipt(655_360, 1, 4), Receipt(655_361, 6, 6)), (BATCHES[2], TREATED[0]), True),
    Send("orders", b"hello", group="customer-7"),
    ReceiveRequest("orders", wait_ms=5_000, consumer=3, consumer_priority=9),
    CloseRequest(3, request=7),
    ManageRequest(CreateChannel("orders", ChannelSettings(single_active=True))),
    ManageRequest(CreateChannel("orders", SAID, ("expiry_ms", "overflow"))),
    ManageRequest(SetDefaults("orders.>", {"delivery_limit": 5, "max_bytes": 0, "create_on_use": False})),
    ManageRequest(SetDefaults("orders.*"), forward=True),
    ListDefaults(),
    CreateScheduleRequest("nightly", NIGHTLY, Send("orders", b"go")),
    CreateScheduleRequest(
        "beat", BEAT, Send("orders", b"", id="a-1", metadata="m", tags={"eu": "yes"}, expiry_ms=60_000, priority=9), True
    ),
    ManageRequest(DeleteSchedule("nightly")),
    ListSchedules(),
    ListSchedules("night", "beat", 100, True),
    requests.SubscribeRequest(1, "orders.*"),
    requests.SubscribeRequest(2, "orders.>", "events", "billing", 10, 65_536, True),
    requests.UnsubscribeRequest(1),
    requests.GrantRequest(1, 2000, 33_554_432),
    requests.PublishRequest(BATCHES[0]),
    requests.PublishRequest(BATCHES[0], True),
    requests.CallRequest("commands", "job", b"hello"),
    requests.CallRequest("queries", "price", b"", 500, 0, "a-1", "m", {"eu": "yes"}, "till-1", "00-4bf9", "eur", 60_000),
    requests.CallRequest("queries", "price", b"", deadline_unix_ns=1_700_000_000_000_000_000),
    requests.RespondRequest(2**61 + 5, b"hello"),
    requests.RespondRequest(2**61 + 5, b"hello", "m", {"eu": "yes"}, executed=False, last=False),
    requests.RespondRequest(2**61 + 5, b"", error="no such price"),
    requests.CancelRequest(7),
    requests.CacheStatsRequest(),
    requests.CacheStatsRequest("price"),
    *ROUTING,
    requests.ReadRequest("events_store:orders"),
    requests.ReadRequest("events_store:orders", "sequence", 42, 1024, 1 << 20, 10_000, "", 655, forward=True),
    requests.ReadRequest("events_store:orders", "last", key="customer-7", plain=True),
    requests.OpenConsumerRequest("events_store:orders>billing", "first", exclusive=True, consumer=3),
    requests.OpenConsumerRequest("events_store:orders>workers", "time_delta_ms", 60_000, forward=True),
    requests.ResetConsumerRequest("events_store:orders>billing", "time", 1_700_000_000_000_000_000),
    requests.CallTableRequest("queries", "price", encode_call_table([(7, 0, b"hello"), (8, 500, b"")]), 1000, metadata="m"),
    requests.RespondTableRequest(encode_respond_table([(2**61 + 5, b"hello"), (2**61 + 6, b"")])),
    requests.SubscribeRequest(3, "job", "commands", tables=True),
]


def test_golden_requests_are_the_values_they_stand_for() -> None:
    items = [item for item in GOLDEN["client"] if item["command"] < 0x80]
    for item, request in zip(items, REQUESTS, strict=True):
        frames = [bytes.fromhex(item["header"]), *map(bytes.fromhex, item["bodies"])]
        assert decode_request(item["command"], plain(item["fields"]), frames[1:]) == request
        assert encode_request(item["request_id"], request) == frames


def test_golden_client_frames_name_every_request_and_reply() -> None:
    named = {(item["name"], item["command"]) for item in GOLDEN["client"]}
    assert named == {(member.name, int(member)) for kind in (Request, Reply) for member in kind}


# --- between nodes ---------------------------------------------------------------------------------------------------


def envelope(kind: int) -> Envelope:
    return Envelope(PeerKind(kind), b"c" * 16, b"s" * 16, b"r" * 16)


@pytest.mark.parametrize("item", GOLDEN["peer"], ids=lambda item: item["name"])
def test_golden_peer_frame_both_ways(peer_twin: ModuleType, item: dict[str, Any]) -> None:
    frames = [bytes.fromhex(item["envelope"]), *map(bytes.fromhex, item["frames"])]
    assert peer_twin.decode_envelope(frames[0]) == envelope(item["kind"])
    assert peer_twin.seal(envelope(item["kind"]), frames[0][ENVELOPE_SIZE:]) == frames[0]
    assert decode_fields(frames[0]) == plain(item["fields"])
    assert encode_peer(envelope(item["kind"]), plain(item["fields"]), frames[1:]) == frames


def test_golden_peer_frames_name_every_kind() -> None:
    named = {item["name"]: item["kind"] for item in GOLDEN["peer"]} | {"RAFT": 1}
    assert named == {kind.name: int(kind) for kind in PeerKind}


def test_golden_members_are_the_values_they_stand_for() -> None:
    founder = Member(1, "n1", SESSION[::-1], "10.0.0.1:5591")
    newcomer = Member(4, "n2", SESSION, "10.0.0.4:5591", replaces=2)
    told = [plain(item["fields"]) for item in GOLDEN["peer"] if "founders" in item["fields"]]
    assert len(told) == 2
    for fields in told:
        assert members_from_wire(fields["founders"]) == (founder,)
        assert members_from_wire(fields["members"]) == (founder, newcomer)
        assert members_to_wire((founder, newcomer)) == fields["members"]


def test_golden_raft_frames_both_ways(peer_twin: ModuleType) -> None:
    golden = GOLDEN["raft"]
    frames = [bytes.fromhex(golden["envelope"]), *map(bytes.fromhex, golden["payloads"])]
    messages = []
    for item in plain(golden["messages"]):
        entries = tuple(Entry(**entry) for entry in item["entries"])
        messages.append(Message(**{**item, "type": MessageType[item["type"]], "entries": entries}))
    assert peer_twin.decode_envelope(frames[0]) == envelope(1)
    assert peer_twin.decode_raft(frames) == messages
    assert peer_twin.encode_raft(envelope(1), messages) == frames


# --- entries ---------------------------------------------------------------------------------------------------------


def test_golden_entry_both_ways() -> None:
    golden = GOLDEN["entry"]
    data = bytes.fromhex(golden["data"])
    commands = (
        Publish(codec.read_batch(BATCHES[0]), 32, len(BATCHES[0]), 3),
        OpenProducer("orders", 5, 0),
        Receive(ReceiveKey(SESSION, 1, 7), "orders", 1, 10, 1 << 20, 0, 30_000, 3),
        Ack(SESSION, "orders", (Receipt(655_360, 1, 4),)),
        Close(SESSION),
        Close(SESSION, 3),
        Tick(),
        Trim(12),
    )
    assert [item["name"] for item in golden["commands"]] == [type(command).__name__ for command in commands]
    assert decode_entry(data) == (4, golden["time_unix_ns"], commands)
    builder = EntryBuilder()
    for command in commands:
        if isinstance(command, Publish):
            builder.add_publish(BATCHES[0], command.incarnation)
        else:
            builder.add(command)
    assert builder.build(golden["time_unix_ns"]) == data
