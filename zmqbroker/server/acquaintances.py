"""The other nodes that this one keeps a link to: configured peers, then members, and strangers that would be members.

Before the cluster is formed a peer is known by its name; afterwards by its uid, since two nodes may have a name in turn (one
whose disk was lost and the one that replaces it). A stranger gets a link too, so that it hears who the members are: a newcomer
that it may join, a removed node that it may stop. Strangers are few and forgotten when they fall silent. No sockets here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from zmqbroker.commands import Member
from zmqbroker.config import parse_peer

__all__ = ["FRESH_NS", "STRANGERS_MAX", "Acquaintances", "PeerState"]

#: A HELLO older than this says nothing about its sender's present state; HELLOs come at least once a second.
FRESH_NS = 3_000_000_000
#: Strangers that are listened to at a time; the longest silent one gives way to another.
STRANGERS_MAX = 16
#: A stranger that was not heard for so long is forgotten.
FORGET_NS = 10_000_000_000


@dataclass(slots=True)
class PeerState:
    """One other node: where it listens, and what its last HELLO said."""

    name: str
    address: str  # host:port of its peer socket
    uid: bytes = b""  # empty until heard of, before the cluster is formed
    client: str = ""  # endpoint to send its clients to; empty until heard of
    formed: bool = False
    rejoins: bool = False  # its data is gone or not to be trusted: it wants the place of the member of its name
    cluster_uid: bytes = b""
    heard_ns: int = -FORGET_NS  # monotonic
    faults: set[str] = field(default_factory=set)  # said once each

    @property
    def key(self) -> str:
        """What links to it are called by."""
        return f"{self.name} {self.address}"


class Acquaintances:
    """Peers and strangers of one node."""

    def __init__(self, name: str, uid: bytes, addresses: dict[str, str]) -> None:
        self._uid, self._address = uid, addresses.get(name, "")
        self.peers = {peer: PeerState(peer, address) for peer, address in sorted(addresses.items()) if peer != name}
        self.strangers: dict[bytes, PeerState] = {}  # by uid; at most STRANGERS_MAX
        self._by_id: dict[int, PeerState] = {}  # Raft id -> peer, once formed

    def everybody(self) -> list[PeerState]:
        """All who get HELLO."""
        return [*self.peers.values(), *self.strangers.values()]

    def with_uid(self, uid: bytes) -> PeerState | None:
        """The peer or stranger with a node uid."""
        return next((peer for peer in self.everybody() if peer.uid == uid), None)

    def with_id(self, member_id: int) -> PeerState | None:
        """The peer with a Raft id; None for this node and for ids that nobody has."""
        return self._by_id.get(member_id)

    def ids_at(self, key: str) -> list[int]:
        """The Raft ids of the members behind a link."""
        return [member_id for member_id, peer in self._by_id.items() if peer.key == key]

    def follow(self, members: Iterable[Member]) -> None:
        """The peers are these members now."""
        known = {peer.uid: peer for peer in self.everybody() if peer.uid}
        names = {peer.name: peer for peer in self.peers.values() if not peer.uid}  # configured, not heard of yet
        self._by_id = {}
        for member in members:
            if member.uid == self._uid:
                continue
            # The configuration may know a member's newer address, but not that of one which took a namesake's place.
            configured = None if member.replaces else names.pop(member.name, None)
            peer = known.pop(member.uid, None) or configured or PeerState(member.name, member.peer)
            peer.uid = member.uid
            self._by_id[member.id] = peer
        # By uid, so that a namesake does not take another's place.
        self.peers = {peer.uid.hex(): peer for peer in self._by_id.values()}
        self.strangers = known

    def meet(self, uid: bytes, fields: dict[str, Any], *, formed: bool) -> PeerState | None:
        """Who sent a HELLO; None for one that nothing can be made of. Somebody new is not kept yet: see `keep`."""
        name, address = fields.get("name"), fields.get("peer")
        if not (isinstance(name, str) and isinstance(address, str) and uid != self._uid):
            return None
        if not formed:
            return self.peers.get(name) or self.strangers.get(uid)
        known = self.with_uid(uid)
        if known is None or (uid in self.strangers and (known.name, known.address) != (name, address)):
            return PeerState(name, address, uid) if parse_peer(f"{name}={address}") else None
        return known if known.name == name else None

    def introduce(self, members: Iterable[Member]) -> None:
        """A node outside of the cluster hears who belongs to it: any of them may be the one that has to hear of it."""
        addresses = {self._address, *(peer.address for peer in self.everybody())}
        for member in members:
            if member.peer not in addresses:
                self.keep(PeerState(member.name, member.peer, member.uid))

    def knows(self, peer: PeerState) -> bool:
        """Whether `meet` found a node that is kept already."""
        return any(peer is known for known in self.everybody())

    def keep(self, peer: PeerState) -> None:
        """Remember whom `meet` found, once its HELLO is accepted; a new stranger may displace the longest silent one."""
        if self.knows(peer):
            return
        if peer.uid not in self.strangers and len(self.strangers) >= STRANGERS_MAX:
            del self.strangers[min(self.strangers, key=lambda known: self.strangers[known].heard_ns)]
        self.strangers[peer.uid] = peer

    def forget_silent(self, now_ns: int) -> None:
        """Forget strangers that were not heard lately."""
        self.strangers = {uid: peer for uid, peer in self.strangers.items() if now_ns - peer.heard_ns < FORGET_NS}
