"""Frames to the peer port that no node of the cluster can have sent: dropped, counted by reason, and the cluster goes on."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.integration.wild import counters, serves, short
from tests.processes import Cluster, Node, wait_until
from zmqbroker.raft.messages import Entry, Message, MessageType
from zmqbroker.server.formation import Formation, Record
from zmqbroker.wire import codec
from zmqbroker.wire.peer import NO_UID, Envelope, PeerKind, encode_peer, encode_raft

STRANGER = b"s" * 16


@dataclass
class Target:
    """One node's peer port, and the uids that are to be believed there."""

    cluster: Cluster
    node: Node
    cluster_uid: bytes
    uid: bytes
    member_uid: bytes  # of another member
    own_id: int
    member_name: str
    member_id: int
    socket: zmq.Socket[bytes]

    def envelope(self, kind: PeerKind, **changed: Any) -> Envelope:
        return Envelope(kind, self.cluster_uid, self.member_uid, self.uid)._replace(**changed)

    def drops(self, counter: str, several: Sequence[Sequence[Any]]) -> None:
        """Send frames that must all be counted under `counter`; afterwards the cluster must serve."""
        before = counters(self.node).get(counter, 0)
        for frames in several:
            self.socket.send_multipart(frames)
        wait_until(lambda: counters(self.node).get(counter, 0) >= before + len(several), 15, counter)
        assert counters(self.node)[counter] == before + len(several)
        assert serves(self.node)


@pytest.fixture(scope="module")
def target(trio: Cluster) -> Iterator[Target]:
    node, other = list(trio.nodes.values())[:2]
    own, its = trio.info(node.name), trio.info(other.name)
    assert own is not None
    assert its is not None
    ids = {member["name"]: member["id"] for member in own["members"]}
    with zmq.Context[zmq.Socket[bytes]]() as context, context.socket(zmq.DEALER) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(f"tcp://{node.environment['ZMQBROKER_LISTEN_PEER']}")
        yield Target(
            trio,
            node,
            bytes.fromhex(own["cluster"]["uid"]),
            bytes.fromhex(own["node"]["uid"]),
            bytes.fromhex(its["node"]["uid"]),
            ids[node.name],
            other.name,
            ids[other.name],
            socket,
        )


def hello_fields(target: Target, **changed: Any) -> dict[str, Any]:
    """What the other member would say, with some of it changed."""
    peers = {name: node.environment["ZMQBROKER_LISTEN_PEER"] for name, node in target.cluster.nodes.items()}
    formation = Formation(
        name=target.member_name,
        uid=target.member_uid,
        cluster="zmqbroker",
        volume="ephemeral",
        client=target.cluster.nodes[target.member_name].endpoint,
        peers=peers,
        cluster_uid=target.cluster_uid,
        founders=(),
        members=(),
        members_index=0,
        record=cast(Record, None),  # nothing is stored
        mint=lambda: STRANGER,
        complain=lambda _: None,
    )
    return {**formation.hello(answer=True), **changed}


def heartbeat(target: Target, **changed: Any) -> Message:
    """A heartbeat of the other member for a term that is long over."""
    message = Message(MessageType.HEARTBEAT, to=target.own_id, sender=target.member_id, group=1, term=1)
    for name, value in changed.items():
        setattr(message, name, value)
    return message


def sealed(frame: bytes) -> bytes:
    """A frame with the checksum that fits it."""
    return frame[:4] + struct.pack("<I", codec.crc32c(frame[8:])) + frame[8:]


def test_garbage_is_malformed(target: Target) -> None:
    good = bytes(encode_raft(target.envelope(PeerKind.RAFT), [])[0])
    wrong_kind = sealed(good[:8] + struct.pack("<H", 9) + good[10:])
    wrong_reserve = sealed(good[:12] + b"\1" + good[13:])
    garbage = [[b""], [b"x"], [bytes(63)], [b"garbage" * 20], [b"ZBP2" + good[4:]], [wrong_kind], [wrong_reserve]]
    target.drops("peer_frames_dropped_malformed_frame", garbage)


def test_frame_with_one_bit_flipped_is_dropped(target: Target) -> None:
    good = bytes(encode_peer(target.envelope(PeerKind.HELLO), hello_fields(target))[0])
    flipped = [[good[:at] + bytes([good[at] ^ 1 << at % 8]) + good[at + 1 :]] for at in range(4, len(good))]
    target.drops("peer_frames_dropped_checksum_mismatch", flipped)


@pytest.mark.parametrize("version", [0, 2, 65_535])
def test_frame_of_another_version_is_dropped(target: Target, version: int) -> None:
    frames = encode_raft(target.envelope(PeerKind.RAFT)._replace(version=version), [heartbeat(target)])
    target.drops("peer_frames_dropped_unsupported_version", [frames])


KINDS = [PeerKind.RAFT, PeerKind.FORWARD, PeerKind.FORWARD_REPLY]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"cluster_uid": STRANGER}, "other_cluster"),
        ({"cluster_uid": NO_UID}, "other_cluster"),
        ({"receiver_uid": STRANGER}, "other_receiver"),
        ({"receiver_uid": NO_UID}, "other_receiver"),
        ({"sender_uid": STRANGER}, "unknown_uid"),
        ({"sender_uid": NO_UID}, "unknown_uid"),
    ],
    ids=short,
)
def test_frame_for_or_from_somebody_else_is_dropped(
    target: Target, kind: PeerKind, changed: dict[str, bytes], reason: str
) -> None:
    envelope = target.envelope(kind, **changed)
    frames = encode_raft(envelope, [heartbeat(target)]) if kind == PeerKind.RAFT else encode_peer(envelope, {}, [b"x"])
    target.drops(f"peer_frames_dropped_{reason}", [frames])


def test_hello_for_another_receiver_is_dropped(target: Target) -> None:
    frames = encode_peer(target.envelope(PeerKind.HELLO, receiver_uid=STRANGER), hello_fields(target))
    target.drops("peer_frames_dropped_other_receiver", [frames])


@pytest.mark.parametrize(
    "changed",
    [
        {"name": "stranger"},
        {"name": None},
        {"cluster": "bank"},
        {"volume": "persistent"},
        {"protocol": [2, 9]},
        {"protocol": "1"},
        {"machine": ["a", "b"]},
        {"machine": [None, {}]},
    ],
    ids=short,
)
def test_hello_that_does_not_fit_is_refused(target: Target, changed: dict[str, Any]) -> None:
    frames = encode_peer(target.envelope(PeerKind.HELLO, receiver_uid=NO_UID), hello_fields(target, **changed))
    target.drops("peer_frames_dropped_hello_refused", [frames, frames])


def test_hello_of_a_member_in_another_cluster_is_refused(target: Target) -> None:
    envelope = target.envelope(PeerKind.HELLO, cluster_uid=STRANGER)
    target.drops("peer_frames_dropped_hello_refused", [encode_peer(envelope, hello_fields(target))])
    assert target.cluster.leader().running


@pytest.mark.parametrize("changed", [{"name": "x y"}, {"peer": None}, {"peer": "nowhere"}, {"peer": "host:99999"}], ids=short)
def test_hello_of_a_stranger_that_cannot_be_reached_is_refused(target: Target, changed: dict[str, Any]) -> None:
    envelope = target.envelope(PeerKind.HELLO, sender_uid=STRANGER)
    target.drops("peer_frames_dropped_hello_refused", [encode_peer(envelope, hello_fields(target, **changed))])


def test_hellos_of_more_strangers_than_are_kept_do_no_harm(target: Target) -> None:
    for number in range(100):
        envelope = target.envelope(PeerKind.HELLO, sender_uid=bytes([number]) * 16, cluster_uid=NO_UID)
        fields = hello_fields(target, name=f"s{number}", peer=f"127.0.0.1:{number + 1}", formed=False)
        target.socket.send_multipart(encode_peer(envelope, fields))
    target.drops("peer_frames_dropped_malformed_frame", [[b"behind them"]])
    info = target.cluster.info(target.node.name)
    assert info is not None
    assert len(info["members"]) == 3


@pytest.mark.parametrize("listed", [[], None, [[1, "a"]], "members", [[9, "x", STRANGER, "x:1", True, 0]] * 2], ids=short)
def test_hello_with_members_that_no_cluster_has_removes_nobody(target: Target, listed: Any) -> None:
    fields = hello_fields(target, founders=listed, members=listed, members_index=2**40)
    target.socket.send_multipart(encode_peer(target.envelope(PeerKind.HELLO), fields))
    target.drops("peer_frames_dropped_malformed_frame", [[b"behind it"]])
    assert target.node.running
    assert target.cluster.leader().running


def test_form_at_a_member_changes_nothing(target: Target) -> None:
    members = [[1, target.node.name, target.uid, "127.0.0.1:1", True, 0]]
    known = {"founders": members, "members": members, "members_index": 2**40}
    fields = {"cluster_uid": STRANGER, "volume": "ephemeral", **known}
    target.socket.send_multipart(encode_peer(target.envelope(PeerKind.FORM), fields))
    target.drops("peer_frames_dropped_malformed_frame", [[b"behind it"]])
    info = target.cluster.info(target.node.name)
    assert info is not None
    assert info["cluster"]["uid"] == target.cluster_uid.hex()
    assert len(info["members"]) == 3


def test_fields_that_are_no_map_are_malformed(target: Target) -> None:
    several = []
    for kind in (PeerKind.HELLO, PeerKind.FORM, PeerKind.FORWARD, PeerKind.FORWARD_REPLY):
        whole = bytes(encode_peer(target.envelope(kind), {})[0])
        several += [[sealed(whole[:64] + body)] for body in (b"", b"\xc1", b"\x91\x01", b"\x80\x80")]
    target.drops("peer_frames_dropped_malformed_frame", several)


def test_raft_that_does_not_add_up_is_dropped(target: Target) -> None:
    envelope = target.envelope(PeerKind.RAFT)
    entries = (Entry(1, 1, b"payload"),)
    append = encode_raft(envelope, [heartbeat(target, type=MessageType.APPEND_ENTRIES, entries=entries)])
    head = bytes(append[0])
    cut = [[sealed(head[:size]), append[1]] for size in range(64, len(head))]
    malformed = [[append[0]], [*append, b"one more"], [append[0], b"longer than it says"], *cut]
    target.drops("peer_frames_dropped_malformed_frame", malformed)
    target.drops("peer_frames_dropped_checksum_mismatch", [[append[0], b"PAYLOAD"]])


def test_raft_of_another_sender_than_the_envelopes_is_dropped(target: Target) -> None:
    frames = encode_raft(target.envelope(PeerKind.RAFT), [heartbeat(target, sender=target.member_id + 1)])
    target.drops("peer_frames_dropped_other_sender", [frames])


def test_raft_of_a_group_that_is_not_here_is_dropped(target: Target) -> None:
    frames = encode_raft(target.envelope(PeerKind.RAFT), [heartbeat(target, group=group) for group in (0, 2, 65_535)])
    before = counters(target.node).get("peer_messages_dropped_unknown_group", 0)
    target.socket.send_multipart(frames)
    counter = "peer_messages_dropped_unknown_group"
    wait_until(lambda: counters(target.node).get(counter, 0) == before + 3, 15, counter)
    assert serves(target.node)


@pytest.mark.parametrize(
    "forward",
    [
        lambda envelope: encode_peer(envelope, {}, [b"x"]),
        lambda envelope: encode_peer(envelope, {"route": b"", "session": STRANGER}, [b"x"]),
        lambda envelope: encode_peer(envelope, {"route": b"\0", "session": STRANGER}, [b"x"]),
        lambda envelope: encode_peer(envelope, {"route": 5, "session": STRANGER}, [b"x"]),
        lambda envelope: encode_peer(envelope, {"route": b"\0route", "session": STRANGER}),
        lambda envelope: encode_peer(envelope, {"route": b"\0route", "session": b"short"}, [b"x"]),
        lambda envelope: encode_peer(envelope, {"route": b"\0route"}, [b"x"]),
    ],
)
def test_forward_without_a_route_a_session_or_frames_is_dropped(
    target: Target, forward: Callable[[Envelope], list[Any]]
) -> None:
    target.drops("peer_frames_dropped_bad_forward", [forward(target.envelope(PeerKind.FORWARD))])


def test_forward_of_garbage_is_refused_as_the_clients_would_be(target: Target) -> None:
    fields = {"route": b"\0nobody", "session": STRANGER}
    frames = [encode_peer(target.envelope(PeerKind.FORWARD), fields, [b"garbage"])] * 3
    target.drops("refused_malformed_frame", frames)


def test_reply_for_a_client_that_is_gone_does_no_harm(target: Target) -> None:
    for route in (b"\0\0\1\2\3\4", b"\1x", b"\0" + bytes(300)):
        target.socket.send_multipart(
            encode_peer(target.envelope(PeerKind.FORWARD_REPLY), {"route": route}, [b"reply", b"body"])
        )
    target.drops("peer_frames_dropped_malformed_frame", [[b"behind them"]])


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_random_frames_do_no_harm(target: Target, data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from([PeerKind.HELLO, PeerKind.FORM, PeerKind.FORWARD, PeerKind.FORWARD_REPLY]))
    fields = data.draw(
        st.dictionaries(
            st.sampled_from([*hello_fields(target), "cluster_uid", "members", "route", "session", "volume"]),
            st.none()
            | st.integers(-1, 9)
            | st.text(max_size=4)
            | st.binary(max_size=17)
            | st.lists(st.integers(0, 3) | st.none()),
        )
    )
    changed = data.draw(st.sampled_from([{}, {"cluster_uid": STRANGER}, {"sender_uid": STRANGER}, {"receiver_uid": NO_UID}]))
    whole = hello_fields(target) if kind == PeerKind.HELLO else {}
    frames = encode_peer(
        target.envelope(kind, **changed), {**whole, **fields}, data.draw(st.lists(st.binary(max_size=30), max_size=2))
    )
    damaged = bytearray(frames[0])
    if data.draw(st.booleans()):
        damaged[data.draw(st.integers(8, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    target.socket.send_multipart([sealed(bytes(damaged)), *frames[1:]])


def test_cluster_after_all_that_has_a_leader_and_every_node(target: Target) -> None:
    target.drops("peer_frames_dropped_malformed_frame", [[b"the last one"]])
    assert target.cluster.leader().running
    assert all(node.running and serves(node) for node in target.cluster.nodes.values())
