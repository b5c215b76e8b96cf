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
from zmqbroker.server.formation import Formation, PeerState
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
    """Links to every configured peer and the filter on what they send."""

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], port: PeerPort, formation: Formation, counters: Counter[str]
    ) -> None:
        self._context = context
        self._port = port
        self._formation = formation
        self._counters = counters
        self._links: dict[str, PeerLink] = {}  # peer name -> link, one per configured peer
        self._names: dict[int, str] = {}  # Raft id -> peer name, once formed

    @property
    def links(self) -> dict[str, PeerLink]:
        """The links by peer name."""
        return self._links

    def connect(self, name: str, address: str) -> None:
        """Connect to a peer at a numeric address, anew when the address is another than before."""
        old = self._links.get(name)
        if old is not None and old.address == address:
            return
        if old is not None:
            old.close()
        self._links[name] = PeerLink(self._context, address)

    def name_members(self) -> None:
        """Learn the Raft ids, once the cluster is formed."""
        self._names = {member.id: member.name for member in self._formation.members}

    def peer_with(self, uid: bytes) -> PeerState | None:
        """The peer with a node uid, if it was heard of."""
        return next((peer for peer in self._formation.peers.values() if peer.uid == uid), None)

    def peer_of(self, member_id: int) -> PeerState | None:
        """The peer with a Raft id; None for this node and for ids that nobody has."""
        return self._formation.peers.get(self._names.get(member_id, ""))

    # --- sending -----------------------------------------------------------------------------------------------------

    def send_raft(self, messages: Iterable[Message]) -> None:
        """Send messages, all that go to one node in one ZeroMQ message."""
        by_node: dict[int, list[Message]] = {}
        for message in messages:
            by_node.setdefault(message.to, []).append(message)
        for node, bundle in by_node.items():
            peer = self.peer_of(node)
            if peer is not None and peer.uid:
                self._send(peer, encode_raft(self._envelope(PeerKind.RAFT, peer), bundle))

    def send_hello(self, *, answer_to: PeerState | None = None) -> None:
        """HELLO to one peer, or to all."""
        for peer in [answer_to] if answer_to else self._formation.peers.values():
            envelope = self._envelope(PeerKind.HELLO, peer)
            self._send(peer, encode_peer(envelope, self._formation.hello(answer=answer_to is not None)))

    def send_form(self, peer: PeerState) -> None:
        """Tell a peer of the cluster that it is a member of."""
        self._send(peer, encode_peer(self._envelope(PeerKind.FORM, peer), self._formation.form_fields()))

    def send_forward(self, kind: PeerKind, peer: PeerState, fields: dict[str, Any], frames: Sequence[bytes]) -> bool:
        """Send a client's request to the leader, or a reply back; False when the link is down or nobody was heard on it yet."""
        return bool(peer.uid) and self._send(peer, encode_peer(self._envelope(kind, peer), fields, frames))

    def _envelope(self, kind: PeerKind, peer: PeerState) -> Envelope:
        formation = self._formation
        receiver = NO_UID if kind == PeerKind.HELLO else peer.uid  # a HELLO is also for whoever sits there with a new disk
        return Envelope(kind, formation.cluster_uid or NO_UID, formation.uid, receiver)

    def _send(self, peer: PeerState, frames: Sequence[Buffer]) -> bool:
        link = self._links.get(peer.name)
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
            if any(message.sender != sender for message in messages):
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
            for member in self._formation.members:
                if member.uid == envelope.sender_uid:
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
        for link in self._links.values():
            link.close()
        self._port.close()
