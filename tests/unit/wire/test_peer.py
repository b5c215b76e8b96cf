"""Frames between nodes: docs/PROTOCOL.md §8. What comes from `twin` holds for both."""

from __future__ import annotations

import struct
import sys
from collections.abc import Sequence
from typing import Any

import crc32c as reference
import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.wire.samples import damaged, load_compiled
from tests.unit.wire.test_codec_switch import fresh
from zmqbroker import _build
from zmqbroker.errors import ChecksumMismatch, LocalProtocolError, MalformedFrame, UnsupportedVersion
from zmqbroker.raft.messages import Entry, Membership, Message, MessageType, Snapshot
from zmqbroker.wire import _peer_py, peer
from zmqbroker.wire.batch import Buffer
from zmqbroker.wire.membership import decode_membership, encode_membership
from zmqbroker.wire.peer import NO_UID, Envelope, PeerKind, decode_fields, encode_peer


@pytest.fixture(scope="module", params=["python", "compiled"])
def twin(request: pytest.FixtureRequest) -> Any:
    return _peer_py if request.param == "python" else load_compiled("_peer")


U64 = st.integers(0, 2**64 - 1)
UID = st.binary(min_size=16, max_size=16)
ENVELOPES = st.builds(Envelope, st.sampled_from(PeerKind), UID, UID, UID, st.just(1))
ENTRIES = st.lists(st.builds(Entry, U64, U64, st.binary(max_size=9)), max_size=3).map(tuple)


@st.composite
def messages(draw: st.DrawFn) -> Message:
    kind = draw(st.sampled_from([kind for kind in MessageType if kind >= MessageType.APPEND_ENTRIES]))
    to, sender, group = draw(U64), draw(U64), draw(st.integers(0, 65_535))
    term, log_term, index, commit, hint = (draw(U64) for _ in range(5))
    entries = draw(ENTRIES) if kind == MessageType.APPEND_ENTRIES else ()
    return Message(kind, to, sender, group, term, log_term, index, commit, hint, draw(st.booleans()), draw(U64), entries)


ENVELOPE = Envelope(PeerKind.RAFT, b"c" * 16, b"s" * 16, b"r" * 16)


def by_hand(body: bytes, *, magic: bytes = b"ZBP1", kind: int = 1, version: int = 1, reserved: int = 0) -> bytes:
    rest = struct.pack("<HHI", kind, version, reserved) + b"c" * 16 + b"s" * 16 + b"r" * 16 + body
    return magic + struct.pack("<I", reference.crc32c(rest)) + rest


def message_by_hand(kind: int = 2, flags: int = 0, entries: int = 0) -> bytes:
    return struct.pack("<BBHI8Q", kind, flags, 3, entries, *range(11, 19))


def entry_by_hand(payload: bytes, size: int | None = None, kind: int = 0, zeros: bytes = bytes(7)) -> bytes:
    checksum = reference.crc32c(payload)
    return struct.pack("<QQIIB7s", 5, 6, len(payload) if size is None else size, checksum, kind, zeros)


def raft_by_hand(*parts: bytes, count: int = 1, reserved: int = 0) -> bytes:
    return by_hand(struct.pack("<II", count, reserved) + b"".join(parts))


# --- envelope and fields ---------------------------------------------------------------------------------------------


FIELDS = st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=5), U64 | st.binary(max_size=5), max_size=3)


TABLES = (PeerKind.CALL, PeerKind.ANSWER, PeerKind.CANCEL)


@given(ENVELOPES, st.binary(max_size=9))
def test_peer_table_is_the_body_as_it_is(twin: Any, envelope: Envelope, table: bytes) -> None:
    for kind in TABLES:
        frames = encode_peer(envelope._replace(kind=kind), {"table": table}, [b"rest"])
        assert twin.decode_envelope(frames[0]) == envelope._replace(kind=kind)
        assert decode_fields(frames[0]) == {"table": table}
        assert (bytes(frames[0])[-len(table) :] if table else b"", frames[1:]) == (table, [b"rest"])


@given(ENVELOPES.filter(lambda envelope: envelope.kind not in TABLES), FIELDS, st.lists(st.binary(max_size=5), max_size=3))
def test_peer_fields_encoded_and_decoded_are_the_same(
    twin: Any, envelope: Envelope, fields: dict[str, Any], rest: list[bytes]
) -> None:
    frames = encode_peer(envelope, fields, rest)
    assert twin.decode_envelope(frames[0]) == envelope
    assert decode_fields(frames[0]) == fields
    assert frames[1:] == rest


def test_peer_frame_has_the_bytes_of_the_protocol() -> None:
    envelope = ENVELOPE._replace(kind=PeerKind.HELLO)
    assert encode_peer(envelope, {"name": "n1"}) == [by_hand(msgpack.packb({"name": "n1"}), kind=2)]
    assert bytes(16) == NO_UID


def test_peer_uid_of_another_size_is_refused() -> None:
    with pytest.raises(LocalProtocolError, match="a uid has 16 bytes: b'short'"):
        encode_peer(ENVELOPE._replace(sender_uid=b"short"), {})


def test_peer_fields_that_msgpack_cannot_carry_are_refused() -> None:
    with pytest.raises(LocalProtocolError, match="fields of HELLO cannot be packed"):
        encode_peer(ENVELOPE._replace(kind=PeerKind.HELLO), {"a": object()})


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (b"", "a peer frame of 0 bytes is shorter than 64"),
        (by_hand(b"")[:63], "a peer frame of 63 bytes is shorter than 64"),
        (by_hand(b"", magic=b"ZBP2"), "a peer frame begins with b'ZBP2' and not with b'ZBP1'"),
        (by_hand(b"", kind=0), "kind 0 of a peer frame is not defined"),
        (by_hand(b"", kind=99), "kind 99 of a peer frame is not defined"),
        (by_hand(b"", reserved=1), "the reserved field of a peer frame is 1, it must be 0"),
    ],
)
def test_envelope_malformed_names_what_is_wrong(twin: Any, frame: bytes, message: str) -> None:
    with pytest.raises(MalformedFrame, match=message):
        twin.decode_envelope(frame)


def test_envelope_of_another_version_names_the_versions_spoken(twin: Any) -> None:
    with pytest.raises(UnsupportedVersion, match="peer protocol version 2") as caught:
        twin.decode_envelope(by_hand(b"", version=2))
    assert caught.value.fields == {"minimum": 1, "maximum": 1}


def test_envelope_every_damage_is_noticed(twin: Any) -> None:
    for frame in damaged(bytes(twin.encode_raft(ENVELOPE, [Message(MessageType.HEARTBEAT)])[0])):
        with pytest.raises((MalformedFrame, ChecksumMismatch)):
            twin.decode_envelope(frame)


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\x90", b"\x80\x80"])
def test_peer_fields_malformed_are_named(body: bytes) -> None:
    with pytest.raises(MalformedFrame, match="fields of a peer frame"):
        decode_fields(by_hand(body, kind=2))


# --- Raft ------------------------------------------------------------------------------------------------------------


@given(st.lists(messages(), max_size=4))
def test_raft_encoded_and_decoded_is_the_same(twin: Any, sent: list[Message]) -> None:
    frames = twin.encode_raft(ENVELOPE, sent)
    assert twin.decode_envelope(frames[0]) == ENVELOPE
    assert twin.decode_raft(frames) == sent
    assert twin.decode_raft([memoryview(frame) for frame in frames]) == sent


def test_raft_frames_have_the_bytes_of_the_protocol_and_the_payload_objects(twin: Any) -> None:
    payload = b"payload"
    heartbeat = Message(MessageType.HEARTBEAT_RESPONSE, 11, 12, 3, 13, 14, 15, 16, 17, True, 18)
    append = Message(MessageType.APPEND_ENTRIES, 11, 12, 3, 13, 14, 15, 16, 17, False, 18, (Entry(5, 6, payload),))
    frames = twin.encode_raft(ENVELOPE, [heartbeat, append])
    table = message_by_hand(kind=9, flags=1), message_by_hand(entries=1), entry_by_hand(payload)
    assert frames == [raft_by_hand(*table, count=2), payload]
    assert frames[1] is payload
    assert twin.decode_raft(frames)[1].entries[0].data is payload


def test_raft_checksum_of_a_payload_is_taken_as_known_and_given_on(twin: Any) -> None:
    known, unknown = Entry(5, 1, b"payload", data_crc=reference.crc32c(b"payload")), Entry(6, 1, b"other")
    received = twin.decode_raft(twin.encode_raft(ENVELOPE, [Message(MessageType.APPEND_ENTRIES, entries=(known, unknown))]))
    assert [entry.data_crc for entry in received[0].entries] == [known.data_crc, reference.crc32c(b"other")]
    wrong = Entry(5, 1, b"payload", data_crc=1)
    with pytest.raises(ChecksumMismatch, match="the payload of entry 5 does not have crc32c 0x00000001"):
        twin.decode_raft(twin.encode_raft(ENVELOPE, [Message(MessageType.APPEND_ENTRIES, entries=(wrong,))]))


@pytest.mark.parametrize("kind", [MessageType.STORAGE_APPEND_RESPONSE])
def test_raft_message_that_never_leaves_a_node_is_refused(twin: Any, kind: MessageType) -> None:
    with pytest.raises(LocalProtocolError, match=f"{kind.name} never leaves a node"):
        twin.encode_raft(ENVELOPE, [Message(kind)])


def test_raft_number_out_of_range_is_refused(twin: Any) -> None:
    with pytest.raises(LocalProtocolError, match="a Raft message does not fit its fields"):
        twin.encode_raft(ENVELOPE, [Message(MessageType.HEARTBEAT, group=65_536)])


FAULTS: list[tuple[list[Buffer], str]] = [
    ([by_hand(bytes(7))], "a RAFT body of 7 bytes is shorter than 8"),
    ([raft_by_hand(count=0, reserved=1)], "the reserved field of a RAFT body is 1, it must be 0"),
    ([raft_by_hand(message_by_hand()[:71])], "a RAFT body of 79 bytes is cut in a message at offset 8"),
    ([raft_by_hand(message_by_hand(), count=2**32 - 1)], "a RAFT body of 80 bytes is cut in a message at offset 80"),
    ([raft_by_hand(message_by_hand(kind=1))], "a Raft message has type 1 and flags 0x00"),
    ([raft_by_hand(message_by_hand(kind=16))], "a Raft message has type 16 and flags 0x00"),
    ([raft_by_hand(message_by_hand(flags=2))], "a Raft message has type 2 and flags 0x02"),
    ([raft_by_hand(message_by_hand(kind=8, entries=1), entry_by_hand(b"")), b""], "HEARTBEAT has 1 entries"),
    ([raft_by_hand(message_by_hand(entries=1), entry_by_hand(b""))], "a Raft message has 1 entries at offset 80"),
    ([raft_by_hand(message_by_hand(entries=2), entry_by_hand(b"")), b"", b""], "a Raft message has 2 entries at offset 80"),
    ([raft_by_hand(message_by_hand(entries=2**32 - 1)), b""], "a Raft message has 4294967295 entries at offset 80"),
    ([raft_by_hand(message_by_hand()), b"x"], "ends at offset 80 with 0 payloads, it has 80 bytes, 1"),
    ([raft_by_hand(message_by_hand(), b"x")], "ends at offset 80 with 0 payloads, it has 81 bytes, 0"),
    ([raft_by_hand(message_by_hand(entries=1), entry_by_hand(b"x", kind=3)), b"x"], "entry 5 has type 3 and 00000000000000"),
    (
        [raft_by_hand(message_by_hand(entries=1), entry_by_hand(b"x", zeros=b"\0\0\0\0\0\0\1")), b"x"],
        "entry 5 has type 0 and 00000000000001 after it",
    ),
    ([raft_by_hand(message_by_hand(entries=1), entry_by_hand(b"x", size=2)), b"x"], "entry 5 says that it has 2 bytes"),
]


@pytest.mark.parametrize(("frames", "message"), FAULTS, ids=[fault for _, fault in FAULTS])
def test_raft_malformed_names_what_is_wrong(twin: Any, frames: Sequence[Buffer], message: str) -> None:
    twin.decode_envelope(frames[0])
    with pytest.raises(MalformedFrame, match=message):
        twin.decode_raft(frames)


def test_raft_damaged_payload_is_a_checksum_mismatch(twin: Any) -> None:
    frames = twin.encode_raft(ENVELOPE, [Message(MessageType.APPEND_ENTRIES, entries=(Entry(5, 1, b"payload"),))])
    with pytest.raises(ChecksumMismatch, match="the payload of entry 5 does not have crc32c"):
        twin.decode_raft([frames[0], b"Payload"])


@given(st.binary(max_size=200), st.lists(st.binary(max_size=5), max_size=3), st.integers(0, 3))
def test_peer_arbitrary_bytes_raise_only_named_errors(twin: Any, body: bytes, payloads: list[bytes], count: int) -> None:
    for frame in (body, by_hand(body), raft_by_hand(body, count=count), raft_by_hand(message_by_hand(entries=count), body)):
        try:
            twin.decode_envelope(frame)
            received = twin.decode_raft([frame, *payloads])
        except (MalformedFrame, ChecksumMismatch, UnsupportedVersion):
            continue
        assert sum(len(message.entries) for message in received) == len(payloads)


# --- snapshots -------------------------------------------------------------------------------------------------------

IDS = st.lists(U64, max_size=3).map(tuple)
MEMBERSHIPS = st.builds(Membership, IDS, IDS, IDS, IDS, st.booleans())


@given(st.builds(Snapshot, U64, U64, MEMBERSHIPS))
def test_raft_snapshot_encoded_and_decoded_is_the_same(twin: Any, snapshot: Snapshot) -> None:
    sent = [Message(MessageType.INSTALL_SNAPSHOT, 2, 1, 1, 9, snapshot=snapshot), Message(MessageType.HEARTBEAT, 2, 1, 1, 9)]
    assert twin.decode_raft(twin.encode_raft(ENVELOPE, sent)) == sent


def test_membership_has_the_bytes_of_the_protocol() -> None:
    membership = Membership((1, 2), (3,), (), (3,), auto_leave=True)
    ids = {id: struct.pack("<Q", id) for id in (1, 2, 3)}
    parts = [b"\x01", b"\x02\0" + ids[1] + ids[2], b"\x01\0" + ids[3], b"\0\0", b"\x01\0" + ids[3]]
    assert encode_membership(membership) == b"".join(parts)


@pytest.mark.parametrize("data", [b"", b"\0", b"\0\1\0", b"\2" + bytes(8), bytes(10)])
def test_membership_of_other_bytes_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedFrame, match="membership"):
        decode_membership(data)


def test_raft_snapshot_without_its_one_entry_is_refused(twin: Any) -> None:
    snapshot = Snapshot(1, 1, Membership((1,)))
    frames = twin.encode_raft(ENVELOPE, [Message(MessageType.INSTALL_SNAPSHOT, snapshot=snapshot)])
    payload = bytes(frames[1])
    twice = raft_by_hand(message_by_hand(kind=11, entries=2), entry_by_hand(payload), entry_by_hand(payload))
    with pytest.raises(MalformedFrame, match="INSTALL_SNAPSHOT has 2 entries"):
        twin.decode_raft([twice, payload, payload])


# --- the switch ------------------------------------------------------------------------------------------------------


def test_switch_takes_python_when_asked_or_when_nothing_else_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_build, "PURE", True)
    assert fresh(peer).decode_raft is _peer_py.decode_raft
    monkeypatch.setattr(_build, "PURE", False)
    assert fresh(peer).decode_raft is load_compiled("_peer").decode_raft
    monkeypatch.setitem(sys.modules, "zmqbroker.wire._peer", None)
    chosen = fresh(peer)
    assert (chosen.encode_raft, chosen.compiled) == (_peer_py.encode_raft, False)
