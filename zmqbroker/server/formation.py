"""Who belongs to the cluster: HELLO between peers and the one-time forming of a cluster (docs/PROTOCOL.md §8).

A cluster is formed once, when every configured peer says that it is empty; the first by name mints the cluster uid. A node that
finds its own uid in a member list adopts it; one that finds its name with another uid was wiped and must not vote under its old
identity. Decisions only: bytes, sockets and files belong to the caller, who gives the time in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from zmqbroker.commands import Member

__all__ = ["MACHINE_VERSIONS", "PROTOCOL_VERSIONS", "Formation", "PeerState", "members_from_wire", "members_to_wire"]

PROTOCOL_VERSIONS = (1, 1)
MACHINE_VERSIONS = (1, 1)
#: A HELLO older than this says nothing about its sender's present state; HELLOs come at least once a second.
FRESH_NS = 3_000_000_000


@dataclass(slots=True)
class PeerState:
    """What the last HELLO of one configured peer said."""

    name: str
    uid: bytes = b""  # empty until heard of
    client: str = ""  # endpoint to send its clients to
    formed: bool = False
    cluster_uid: bytes = b""
    heard_ns: int = -FRESH_NS  # monotonic
    faults: set[str] = field(default_factory=set)  # said once each


def members_to_wire(members: tuple[Member, ...]) -> list[list[Any]]:
    """Members as msgpack values."""
    return [[member.id, member.name, member.uid, member.peer] for member in members]


def members_from_wire(value: object) -> tuple[Member, ...]:
    """Members from msgpack values; raises ValueError on anything else."""
    if not isinstance(value, list):
        raise ValueError("members is not a list")
    members = []
    for item in value:
        if not (isinstance(item, list) and len(item) == 4 and isinstance(item[0], int) and isinstance(item[2], bytes)):
            raise ValueError(f"not a member: {item!r}")
        members.append(Member(item[0], str(item[1]), item[2], str(item[3])))
    return tuple(members)


def _is_range(value: object) -> TypeGuard[list[int]]:
    """Whether a HELLO's versions are [lowest, highest]."""
    return isinstance(value, list) and len(value) == 2 and all(isinstance(number, int) for number in value)


class Formation:
    """The members of this node's cluster, or the way there."""

    def __init__(
        self,
        *,
        name: str,
        uid: bytes,
        cluster: str,
        volume: str,
        client: str,
        peers: dict[str, str],
        cluster_uid: bytes,
        members: tuple[Member, ...],
        form: Callable[[bytes, tuple[Member, ...]], None],
        mint: Callable[[], bytes],
        complain: Callable[[str], None],
    ) -> None:
        self.name, self.uid, self.cluster, self.volume, self.client = name, uid, cluster, volume, client
        self.addresses = peers  # name -> host:port, this node included
        self.cluster_uid = cluster_uid  # empty until formed
        self.members = members  # empty until formed
        self.wiped = False  # True: the cluster knows this name under another uid
        self.foreign: set[str] = set()  # peers that belong to another cluster
        self.peers = {peer: PeerState(peer) for peer in sorted(peers) if peer != name}
        self._form, self._mint, self._complain = form, mint, complain

    @property
    def formed(self) -> bool:
        """Whether this node is a member of a formed cluster."""
        return bool(self.cluster_uid)

    def hello(self, answer: bool) -> dict[str, Any]:
        """The fields of this node's HELLO."""
        return {
            "name": self.name,
            "cluster": self.cluster,
            "volume": self.volume,
            "client": self.client,
            "protocol": list(PROTOCOL_VERSIONS),
            "machine": list(MACHINE_VERSIONS),
            "formed": self.formed,
            "peers": sorted(self.addresses),
            "members": members_to_wire(self.members) if self.formed else None,
            "answer": answer,
        }

    def form_fields(self) -> dict[str, Any]:
        """The fields of a FORM."""
        return {"cluster_uid": self.cluster_uid, "volume": self.volume, "members": members_to_wire(self.members)}

    def member_named(self, name: str) -> Member | None:
        """The member with that name, if the cluster is formed and has it."""
        return next((member for member in self.members if member.name == name), None)

    def on_hello(self, sender_uid: bytes, cluster_uid: bytes, fields: dict[str, Any], now_ns: int) -> PeerState | None:
        """Take a HELLO; None when its sender is refused (the reason is said once)."""
        peer = self.peers.get(str(fields.get("name")))
        if peer is None:
            return None
        if fault := self._fault(fields, cluster_uid):
            self._complain_once(peer, fault)
            if cluster_uid and self.formed and cluster_uid != self.cluster_uid:
                self.foreign.add(peer.name)
            return None
        member = self.member_named(peer.name)
        if member is not None and member.uid != sender_uid:
            self._complain_once(
                peer, f"{peer.name} has an empty or another disk: the cluster knows it under another uid, it cannot vote"
            )
            return None
        peer.uid, peer.client, peer.heard_ns = sender_uid, str(fields.get("client", "")), now_ns
        peer.formed, peer.cluster_uid = bool(fields.get("formed")), cluster_uid
        self.foreign.discard(peer.name)
        if peer.formed and not self.formed:
            self._consider(peer.cluster_uid, fields.get("members"))
        return peer

    def _fault(self, fields: dict[str, Any], cluster_uid: bytes) -> str:
        name = fields.get("name")
        if fields.get("cluster") != self.cluster:
            return f"{name} is configured for cluster {fields.get('cluster')!r}, this node for {self.cluster!r}"
        if fields.get("volume") != self.volume:
            return f"{name} has volume mode {fields.get('volume')!r}, this node {self.volume!r}"
        if fields.get("peers") != sorted(self.addresses) and not self.formed:
            return f"{name} is configured with the peers {fields.get('peers')}, this node with {sorted(self.addresses)}"
        for key, (low, high) in (("protocol", PROTOCOL_VERSIONS), ("machine", MACHINE_VERSIONS)):
            spoken = fields.get(key)
            if not (_is_range(spoken) and spoken[0] <= high and spoken[1] >= low):
                return f"{name} speaks {key} versions {spoken}, this node {low} to {high}"
        if fields.get("formed") and not cluster_uid:
            return f"{name} says that it is a member and names no cluster"
        if self.formed and cluster_uid.strip(b"\0") and cluster_uid != self.cluster_uid:
            return f"{name} belongs to another cluster ({cluster_uid.hex()}), this node to {self.cluster_uid.hex()}"
        return ""

    def _complain_once(self, peer: PeerState, fault: str) -> None:
        if fault not in peer.faults and len(peer.faults) < 16:
            peer.faults.add(fault)
            self._complain(fault)

    def _consider(self, cluster_uid: bytes, members: object) -> None:
        """Somebody's cluster: ours if it counts this very disk among its members."""
        try:
            found = members_from_wire(members)
        except ValueError:
            return
        mine = next((member for member in found if member.name == self.name), None)
        if mine is not None and mine.uid == self.uid:
            self._adopt(cluster_uid, found)
        elif mine is not None and not self.wiped:
            self.wiped = True
            self._complain(
                f"this data directory is empty, but cluster {cluster_uid.hex()} knows {self.name} with another one: "
                "this node does not vote; put the old directory back, or leave the cluster to the other nodes"
            )

    def on_form(self, fields: dict[str, Any]) -> None:
        """Take a FORM; ignored by a node that is a member already."""
        cluster_uid = fields.get("cluster_uid")
        if not self.formed and isinstance(cluster_uid, bytes) and len(cluster_uid) == 16:
            self._consider(cluster_uid, fields.get("members"))

    def _adopt(self, cluster_uid: bytes, members: tuple[Member, ...]) -> None:
        self._form(cluster_uid, members)  # durable before anything depends on it
        self.cluster_uid, self.members = cluster_uid, members

    def try_to_form(self, now_ns: int) -> bool:
        """Form the cluster if this node is the one to do it and all others were just heard to be empty."""
        if self.formed or self.wiped or self.name != min(self.addresses):
            return False
        fresh = all(peer.uid and not peer.formed and now_ns - peer.heard_ns < FRESH_NS for peer in self.peers.values())
        if not fresh:
            return False
        uids = {self.name: self.uid, **{peer.name: peer.uid for peer in self.peers.values()}}
        members = tuple(
            Member(number, name, uids[name], self.addresses[name]) for number, name in enumerate(sorted(uids), start=1)
        )
        self._adopt(self._mint(), members)
        return True

    def missing(self, now_ns: int) -> list[str]:
        """Configured peers not heard of lately, as name (address)."""
        return [
            f"{peer.name} ({self.addresses[peer.name]})" for peer in self.peers.values() if now_ns - peer.heard_ns >= FRESH_NS
        ]
