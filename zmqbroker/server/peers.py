"""The other nodes: links to them, what is believed of what they send, and the frames that are not Raft's.

Every frame is checked against its envelope (docs/PROTOCOL.md §8) before a byte of its body is looked at; what fits nobody is
dropped and counted by reason. Nothing here blocks: names are resolved by the caller, links that are down lose frames.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import zmq

from zmqbroker.errors import RequestError
from zmqbroker.raft.messages import Message
from zmqbroker.server.acquaintances import PeerState
from zmqbroker.server.formation import Formation
from zmqbroker.server.patient_link import PatientLink
from zmqbroker.server.sockets import PeerLink, PeerPort
from zmqbroker.wire.batch import Buffer
from zmqbroker.wire.peer import (
    NO_UID,
    Envelope,
    PeerKind,
    decode_envelope,
    decode_fields,
    decode_raft,
    encode_peer,
    encode_raft,
)

__all__ = ["PeerNetwork", "Received"]

#: What `PeerNetwork.receive` hands on: Raft messages, or a forwarded request or reply with its sender's uid.
Received = list[Message] | tuple[PeerKind, bytes, dict[str, Any], list[bytes]]


class PeerNetwork:
    """Links to every peer and stranger, and the filter on what they send."""

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], port: PeerPort, formation: Formation, counters: Counter[str]
    ) -> None:
        self._context = context
        self._port = port
        self._formation = formation
        self._counters = counters
        self._links: dict[str, PeerLink] = {}  # by PeerState.key
        self._bulk: dict[str, PeerLink] = {}  # the same for snapshots, only while they are sent
        self._realtime: dict[str, PatientLink] = {}  # the same for what never enters the log

    @property
    def links(self) -> dict[str, PeerLink]:
        """The links by the key of their peer."""
        return self._links

    def connect(self, peer: PeerState, address: str) -> None:
        """Connect to a peer at a numeric address, anew when the address is another than before."""
        old = self._links.get(peer.key)
        if old is not None and old.address == address:
            return
        if old is not None:
            old.close()
            self._realtime.pop(peer.key).close()
        self._links[peer.key] = PeerLink(self._context, address)
        # Now, and not when something is to be sent: what is sent before it stands is lost.
        self._realtime[peer.key] = PatientLink(PeerLink(self._context, address))

    def drop_strangers(self) -> None:
        """Close the links to nodes that are neither peers nor strangers any more."""
        keys = {peer.key for peer in self._formation.known.everybody()}
        for links in (self._links, self._bulk):
            for key in [key for key in links if key not in keys]:
                links.pop(key).close()
        for key in [key for key in self._realtime if key not in keys]:
            self._realtime.pop(key).close()

    def peer_with(self, uid: bytes) -> PeerState | None:
        """The peer with a node uid, if it was heard of."""
        return self._formation.known.with_uid(uid)

    def peer_of(self, member_id: int) -> PeerState | None:
        """The peer with a Raft id; None for this node and for ids that nobody has."""
        return self._formation.known.with_id(member_id)

    # --- sending -----------------------------------------------------------------------------------------------------

    def send_raft(self, messages: Iterable[Message]) -> None:
        """Send messages, all that go to one node in one ZeroMQ message: heartbeats of all groups, too."""
        by_node: dict[int, list[Message]] = {}
        for message in messages:
            by_node.setdefault(message.to, []).append(message)
        for node, bundle in by_node.items():
            peer = self.peer_of(node)
            if peer is not None:
                self._send(peer, encode_raft(self._envelope(PeerKind.RAFT, peer), bundle))

    def send_hello(self, *, answer_to: PeerState | None = None) -> None:
        """HELLO to one node, or to all."""
        for peer in [answer_to] if answer_to else self._formation.known.everybody():
            envelope = self._envelope(PeerKind.HELLO, peer)
            self._send(peer, encode_peer(envelope, self._formation.hello(answer=answer_to is not None)))

    def send_form(self, peer: PeerState) -> None:
        """Tell a peer of the cluster that it is a member of."""
        self._send(peer, encode_peer(self._envelope(PeerKind.FORM, peer), self._formation.form_fields()))

    def send_forward(self, kind: PeerKind, peer: PeerState, fields: dict[str, Any], frames: Sequence[bytes]) -> bool:
        """Send a client's request to the leader, or a reply back; False when the link is down or nobody was heard on it yet."""
        return bool(peer.uid) and self._send(peer, encode_peer(self._envelope(kind, peer), fields, frames))

    def send_bulk(self, peer: PeerState, fields: dict[str, Any], chunk: bytes) -> bool:
        """Send a piece of a snapshot on a connection of its own, so that no heartbeat waits behind it."""
        link = self._links.get(peer.key)
        if link is None:
            return False
        bulk = self._bulk.get(peer.key)
        if bulk is None or bulk.address != link.address:
            if bulk is not None:
                bulk.close()
            bulk = self._bulk[peer.key] = PeerLink(self._context, link.address)
        return bulk.send(encode_peer(self._envelope(PeerKind.SNAPSHOT, peer), fields, (chunk,)))

    def send_realtime(self, kind: PeerKind, peer: PeerState, fields: dict[str, Any], frames: Sequence[Buffer] = ()) -> bool:
        """Send what never enters the log, on a connection of its own too; False when it is not connected, or over its bound."""
        link = self._realtime.get(peer.key)
        if link is None or not peer.uid:
            return False
        return link.send(encode_peer(self._envelope(kind, peer), fields, frames))

    @property
    def blocked(self) -> bool:
        """Whether anything that never enters the log waits for room on its way."""
        return any(link.blocked for link in self._realtime.values())

    def flush(self) -> None:
        """Try that again."""
        for link in self._realtime.values():
            link.flush()

    def end_bulk(self, member_id: int) -> None:
        """Close the connection for snapshots: nothing is sent on it for now."""
        peer = self.peer_of(member_id)
        link = self._bulk.pop(peer.key, None) if peer is not None else None
        if link is not None:
            link.close()

    def _envelope(self, kind: PeerKind, peer: PeerState) -> Envelope:
        formation = self._formation
        receiver = NO_UID if kind == PeerKind.HELLO else peer.uid  # a HELLO is also for whoever sits there with a new disk
        return Envelope(kind, formation.cluster_uid or NO_UID, formation.uid, receiver)

    def _send(self, peer: PeerState, frames: Sequence[Buffer]) -> bool:
        link = self._links.get(peer.key)
        if link is not None and link.send(frames):
            return True
        self._counters["peer_frames_unsent"] += 1
        return False

    # --- receiving ---------------------------------------------------------------------------------------------------

    def receive(self, count_max: int, now_ns: int) -> list[Received]:
        """What arrived and can be believed."""
        found: list[Received] = []
        for frames in self._port.drain(count_max):
            try:
                received = self._believe(frames, now_ns)
            except RequestError as error:
                self._counters[f"peer_frames_dropped_{error.code.lower()}"] += 1
                continue
            if received is not None:
                found.append(received)
        return found

    def readable(self) -> bool:
        """Whether a frame waits."""
        return self._port.readable()

    def _believe(self, frames: list[bytes], now_ns: int) -> Received | None:
        envelope = decode_envelope(frames[0] if frames else b"")
        if envelope.receiver_uid not in (self._formation.uid, NO_UID):
            self._drop("other_receiver")
            return None
        if envelope.kind == PeerKind.HELLO:
            self._hello(envelope, decode_fields(frames[0]), now_ns)
            return None
        if envelope.kind == PeerKind.FORM:
            self._formation.on_form(decode_fields(frames[0]))
            return None
        sender = self._member(envelope)
        if sender is None:
            return None
        if envelope.kind == PeerKind.RAFT:
            messages = decode_raft(frames)
            for message in messages:
                if message.sender != sender:
                    self._drop("other_sender")
                    return None
            return messages
        return envelope.kind, envelope.sender_uid, decode_fields(frames[0]), frames[1:]

    def _drop(self, reason: str) -> None:
        """Count a frame that is not believed."""
        self._counters[f"peer_frames_dropped_{reason}"] += 1

    def _member(self, envelope: Envelope) -> int | None:
        """Raft id of a frame's sender, if it belongs to this cluster under that very uid."""
        if not self._formation.formed or envelope.cluster_uid != self._formation.cluster_uid:
            self._drop("other_cluster")
        elif envelope.receiver_uid != self._formation.uid:
            self._drop("other_receiver")
        else:
            member = self._formation.member_with(envelope.sender_uid)
            if member is not None:
                return member.id
            self._drop("unknown_uid")
        return None

    def _hello(self, envelope: Envelope, fields: dict[str, Any], now_ns: int) -> None:
        cluster_uid = envelope.cluster_uid if envelope.cluster_uid != NO_UID else b""
        peer = self._formation.on_hello(envelope.sender_uid, cluster_uid, fields, now_ns)
        if peer is None:
            self._drop("hello_refused")
            return
        if fields.get("answer") is not True:
            self.send_hello(answer_to=peer)
        if self._formation.formed and not peer.formed:
            self.send_form(peer)

    def close(self) -> None:
        """Close every socket."""
        for link in (*self._links.values(), *self._bulk.values()):
            link.close()
        for patient in self._realtime.values():
            patient.close()
        self._port.close()
