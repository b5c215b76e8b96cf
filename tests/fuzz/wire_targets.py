"""Frames from clients and nodes, and what lies in log entries: every decoder of `wire`, both twins where there are two."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz.target import MissedTwin, Target, join_frames, kind_of, split_frames
from tests.unit.wire.samples import outcome
from zmqbroker.checksum import crc32c
from zmqbroker.client.message import Content, read_messages
from zmqbroker.client.parcel import Parcel
from zmqbroker.client.pipeline import PipelineSettings
from zmqbroker.client.session import Answer, Session
from zmqbroker.commands import CreateSchedule, HandOver, NewSchedule, Publish, PublishAll
from zmqbroker.errors import MalformedFrame, RemoteProtocolError, RequestError
from zmqbroker.raft.messages import Entry, Membership, Message, MessageType, Snapshot
from zmqbroker.realtime import Interest
from zmqbroker.server.snapshot_transfer import read_chunk
from zmqbroker.wire import _codec_py, _peer_py, _sends_py, codec, peer, requests, sends
from zmqbroker.wire.call_frames import (
    decode_answers,
    decode_calls,
    decode_cancels,
    decode_target,
    encode_answers,
    encode_calls,
    encode_cancels,
)
from zmqbroker.wire.columns import read_runs
from zmqbroker.wire.entries import EntryBuilder, decode_entry
from zmqbroker.wire.frames import Request, decode_header
from zmqbroker.wire.hand_overs import HandOverFrames
from zmqbroker.wire.headers import MessageHeaders, decode_message_headers, encode_message_headers
from zmqbroker.wire.interest import announcement_fields, read_announcement
from zmqbroker.wire.membership import decode_members, decode_membership, encode_membership, members_from_wire
from zmqbroker.wire.peer import ENVELOPE_SIZE, Envelope, PeerKind
from zmqbroker.wire.publish_all import PublishAllFrames

__all__ = ["WIRE_TARGETS"]

_GOLDEN: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "conformance" / "golden_frames.json").read_text(encoding="utf-8")
)
_U32 = struct.Struct("<I")
_ENDPOINT = "tcp://127.0.0.1:5590"
#: PRODUCER with last_sequence 0, around a request id.
_OPENED, _LAST = b"ZB\x01\x88", b"\x81\xadlast_sequence\x00"


def _same(what: str, one: Callable[[], object], other: Callable[[], object]) -> object:
    """What both give; raises what both raise, MissedTwin when they differ."""
    first, second = outcome(one), outcome(other)
    if first != second:
        raise MissedTwin(f"{what}: {first!r} and {second!r}")
    return one()


# --- clients ---------------------------------------------------------------------------------------------------------


def _client_samples(low: int, high: int) -> list[bytes]:
    items = [item for item in _GOLDEN["client"] if low <= item["command"] < high]
    return [join_frames([bytes.fromhex(part) for part in (item["header"], *item["bodies"])]) for item in items]


def _run_request(data: bytes) -> str:
    frames = split_frames(data) or [b""]
    _gather(frames)
    code, request_id, fields = decode_header(frames[0], from_client=True)
    request = requests.decode_request(code, fields, frames[1:])
    again, new_id, new_fields = decode_header(requests.encode_request(request_id, request)[0])
    if requests.decode_request(again, new_fields, frames[1:]) != request or (again, new_id) != (code, request_id):
        raise MissedTwin(f"{request!r} is another one when it was written and read again")
    if isinstance(request, requests.SendBatch):
        read_runs(request.batch, 0, codec.read_batch(request.batch))
    return f"{type(request).__name__} {sorted(fields)}"


def _gather(frames: list[bytes]) -> None:
    """What a node does with SENDs before it reads them one by one."""
    given = [[b"route", *frames], [b"route", b"", *frames]]
    results = []
    for twin in (_sends_py, sends):
        messages = [list(message) for message in given]
        results.append((twin.gather(messages, 0, 1 << 20, 1 << 20), messages))
    if results[0] != results[1]:
        raise MissedTwin(f"gather: {results}")


def _run_reply(data: bytes) -> None:
    """As a reply to everything that a client may have under way, one after the other."""
    frames = split_frames(data)
    if not frames:
        return
    session = Session((_ENDPOINT,), bytes(16), "", Random(1), 0)
    session.connected(_ENDPOINT, 0)
    hello = session.pump(0)[0].frames[0]
    session.received(_ENDPOINT, [bytes((*b"ZB", 1, 0x81)) + bytes(hello[4:12])], 0)
    session.submit(requests.ReceiveRequest("q"), "receive", 10**12)
    session.submit(requests.StatsRequest("q"), "stats", 10**12)
    pipeline, parcel = session.pipeline("q", PipelineSettings()), Parcel([b"a", b"b"], 40, 0, 10**12)
    parcel.seal()
    pipeline.append(parcel)
    session.activate(pipeline)
    for step in range(4):  # what it made the session send is answered with it too
        for transmit in session.pump(step * 10**9):
            head = bytes(transmit.frames[0][:12])
            reply = frames[0][:4] + head[4:] + frames[0][12:]
            opens = head[3] == Request.OPEN_PRODUCER and step < 3
            session.received(_ENDPOINT, [_OPENED + head[4:] + _LAST, b""] if opens else [reply, *frames[1:]], step * 10**9)
        session.received(_ENDPOINT, frames, step * 10**9)
        session.tick(step * 10**9)
    for completion in session.take_completions():
        if completion.token == "receive" and isinstance(completion.value, Answer):
            for message in read_messages(None, "q", *completion.value, Content):
                _ = message.id, message.tags, message.origin


# --- batches ---------------------------------------------------------------------------------------------------------


def _batch_samples() -> list[bytes]:
    golden = [bytes.fromhex(item["frame"]) for kind in ("batches", "treated_batches") for item in _GOLDEN[kind]]
    return [*golden, codec.encode_batch(b"q", [b"x"] * 300, 5, 2**64 - 300, [b"i"] * 300)]


def _seal_batch(data: bytes) -> bytes:
    if len(data) < 12:
        return data
    made = bytearray(data)
    made[:4] = b"ZBB1"
    _U32.pack_into(made, 8, len(made))
    _U32.pack_into(made, 4, crc32c(bytes(made[8:])))
    return bytes(made)


def _run_batch(data: bytes) -> None:
    def both(name: str, *arguments: Any, **options: Any) -> Any:
        calls = [partial(getattr(twin, name), *arguments, **options) for twin in (_codec_py, codec)]
        return _same(name, *calls)

    header = both("read_batch", data)
    both("decode_batch", data)
    for low, high in {(0, 1), (header.count // 2, header.count), (0, header.count)}:
        part = both("slice_batch", data, 0, len(data), low, high)
        if both("read_batch", part).count != high - low:
            raise MissedTwin(f"slice {low} to {high}")


def _run_columns(data: bytes) -> None:
    header = codec.read_batch(data)
    runs = read_runs(data, 0, header)
    if runs and sum(run.count for run in runs) != header.count:
        raise MissedTwin(f"{runs} are not {header.count} messages")


# --- log entries -----------------------------------------------------------------------------------------------------


def _entry_samples() -> list[bytes]:
    whole = [
        bytes.fromhex(_GOLDEN[kind]["data"]) for kind in ("entry", "queue_entry", "audit_entry", "store_entry", "routing_entry")
    ]
    return whole + [_built(data, one) for data in whole for one in range(len(decode_entry(data).commands))]


def _built(data: bytes, one: int | None = None) -> bytes:
    """The entry written anew, or one of its commands alone."""
    builder, entry = EntryBuilder(), decode_entry(data)
    for command in entry.commands if one is None else entry.commands[one : one + 1]:
        if isinstance(command, Publish):
            builder.add_publish(_frame(data, command), command.incarnation, command.expected_sequence)
        elif isinstance(command, HandOver):
            frames = tuple(_frame(data, batch) for batch in command.batches)
            builder.add(HandOverFrames(command.session, command.channel, command.receipts, frames))
        elif isinstance(command, PublishAll):
            frames = tuple(_frame(data, batch) for batch in command.batches)
            builder.add(PublishAllFrames(frames, command.batches[0].expected_sequence))
        elif isinstance(command, CreateSchedule):
            builder.add(NewSchedule(command.name, command.plan, _frame(data, command.message)))
        else:
            builder.add(command)
    return builder.build(entry.time_unix_ns)


def _frame(data: bytes, batch: Publish) -> bytes:
    return data[batch.position : batch.position + batch.size]


def _run_entry(data: bytes) -> None:
    entry = decode_entry(data)
    again = decode_entry(_built(data))
    # A command may be written in more ways than one, so that what follows it lies elsewhere.
    if [_without_place(command) for command in again.commands] != [_without_place(command) for command in entry.commands]:
        raise MissedTwin(f"{entry} is another one when it was written and read again")


def _without_place(command: Any) -> Any:
    return (command.header, command.size, command.incarnation, command.runs) if isinstance(command, Publish) else command


# --- nodes -----------------------------------------------------------------------------------------------------------


def _peer_samples() -> list[bytes]:
    found = [join_frames([bytes.fromhex(part) for part in (item["envelope"], *item["frames"])]) for item in _GOLDEN["peer"]]
    golden = _GOLDEN["raft"]
    found.append(join_frames([bytes.fromhex(part) for part in (golden["envelope"], *golden["payloads"])]))
    envelope = Envelope(PeerKind.RAFT, b"c" * 16, b"s" * 16, b"r" * 16)
    messages = [Message(kind, 2, 1, 1, 3) for kind in MessageType if kind >= MessageType.APPEND_ENTRIES]
    found.append(join_frames(_peer_py.encode_raft(envelope, messages)))
    append = Message(MessageType.APPEND_ENTRIES, 2, 1, 1, 3, entries=tuple(Entry(n, 3, b"x" * n) for n in range(1, 6)))
    install = Message(MessageType.INSTALL_SNAPSHOT, 2, 1, 1, 3, snapshot=Snapshot(9, 3, Membership((1, 2), (), (3,))))
    found.append(join_frames(_peer_py.encode_raft(envelope, [append, install, append])))
    return found


def _seal_peer(data: bytes) -> bytes:
    """Right checksums of the envelope and, as far as the table can be followed, of the payloads."""
    frames = [bytearray(frame) for frame in split_frames(data)]
    if not frames or len(frames[0]) < ENVELOPE_SIZE:
        return data
    head = frames[0]
    head[:4] = b"ZBP1"
    if head[8] == PeerKind.RAFT:
        _seal_payloads(head, frames[1:])
    _U32.pack_into(head, 4, crc32c(bytes(head[8:])))
    return join_frames(frames)


def _seal_payloads(head: bytearray, payloads: list[bytearray]) -> None:
    position, number = ENVELOPE_SIZE + 8, 0
    while position + 72 <= len(head):
        (count,) = _U32.unpack_from(head, position + 4)
        position += 72
        for _ in range(min(count, len(payloads) - number)):
            if position + 32 > len(head):
                return
            struct.pack_into("<II", head, position + 16, len(payloads[number]), crc32c(bytes(payloads[number])))
            position, number = position + 32, number + 1


def _run_table(kind: PeerKind, table: bytes, bodies: list[bytes]) -> None:
    if kind == PeerKind.CALL:
        calls = decode_calls(table, bodies)
        for call in calls:
            decode_target(call.target)
        again: tuple[bytes, list[bytes]] = encode_calls(calls)
    elif kind == PeerKind.ANSWER:
        again = encode_answers(decode_answers(table, bodies))
    else:
        again = encode_cancels(decode_cancels(table)), bodies  # which nobody looks at
    if kind != PeerKind.ANSWER and again != (table, bodies):  # an answer has three bytes that say nothing
        raise MissedTwin(f"a table of {kind.name} is another one when it was read and written again")


def _run_peer(data: bytes) -> None:
    frames = split_frames(data) or [b""]
    envelope: Any = _same(
        "decode_envelope", lambda: _peer_py.decode_envelope(frames[0]), lambda: peer.decode_envelope(frames[0])
    )
    if envelope.kind == PeerKind.RAFT:
        messages: Any = _same("decode_raft", lambda: _peer_py.decode_raft(frames), lambda: peer.decode_raft(frames))
        _same("encode_raft", lambda: _peer_py.encode_raft(envelope, messages), lambda: peer.encode_raft(envelope, messages))
        return
    fields = peer.decode_fields(frames[0])
    if envelope.kind == PeerKind.SNAPSHOT:
        read_chunk(fields, frames[1:])
    if envelope.kind == PeerKind.INTEREST:
        told = read_announcement(fields)
        if read_announcement(announcement_fields(told)) != told:
            raise MissedTwin(f"{told!r} is another one when it was written and read again")
        Interest(bytes(16)).hear(envelope.sender_uid, told, 0)
    if envelope.kind in (PeerKind.CALL, PeerKind.ANSWER, PeerKind.CANCEL) and isinstance(fields.get("table"), bytes):
        _run_table(envelope.kind, fields["table"], frames[1:])
    for name in ("founders", "members"):
        if name in fields:
            members_from_wire(fields[name])


def _membership_samples() -> list[bytes]:
    memberships = (Membership((1,)), Membership((1, 2, 3), (2, 3, 4), (5,), (4,), True))
    golden = [item["fields"]["members"] for item in _GOLDEN["peer"] if "members" in item["fields"]]
    packed = [bytes.fromhex(item["envelope"])[ENVELOPE_SIZE:] for item in _GOLDEN["peer"]] if golden else []
    return [*map(encode_membership, memberships), *packed, b"\x91\x96\x01\xa2n1\xc4\x10" + bytes(16) + b"\xa4h:55\xc3\x00"]


def _run_membership(data: bytes) -> str:
    seen = []
    for decode in (decode_membership, decode_members):
        try:
            value: Any = decode(data)
        except MalformedFrame as error:
            seen.append(kind_of(error))
            continue
        seen.append(f"{len(value) if isinstance(value, tuple) else value.auto_leave}")
        if isinstance(value, Membership) and encode_membership(value) != data:
            raise MissedTwin(f"{value} is written as other bytes")
    return ", ".join(seen)


def _header_samples() -> list[bytes]:
    full = MessageHeaders("m", {"eu": "yes", "": ""}, "till-1", "00-ab")
    return [b"", encode_message_headers(full), encode_message_headers(MessageHeaders(trace="t"))]


_REQUEST = (RequestError,)

WIRE_TARGETS = (
    Target("request", _run_request, lambda: _client_samples(0, 0x80), _REQUEST),
    Target("reply", _run_reply, lambda: _client_samples(0x80, 0x100), (RemoteProtocolError,)),
    Target("batch", _run_batch, _batch_samples, _REQUEST, _seal_batch),
    Target("columns", _run_columns, _batch_samples, _REQUEST, _seal_batch),
    Target("entry", _run_entry, _entry_samples, _REQUEST),
    Target("peer", _run_peer, _peer_samples, _REQUEST, _seal_peer),
    Target("membership", _run_membership, _membership_samples, _REQUEST),
    Target("headers", decode_message_headers, _header_samples, _REQUEST),
)
