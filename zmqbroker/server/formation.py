"""Who belongs to the cluster: HELLO between nodes, the one-time forming of a cluster, joining it later (docs/PROTOCOL.md §8).

A cluster is formed once, when every configured peer says that it is empty; the first by name mints the cluster uid. After that
its members change through the log alone, and what is here only follows: which uid has which Raft id and where it listens. A
node that finds its own uid in a member list adopts the cluster; one that finds its name with another uid was wiped and must not
vote under its old identity. Neither must one that does not trust its data: it asks under a new uid for the place of its old
self. Whoever asks so is no empty node, and no cluster is formed with it.

Decisions only: bytes, sockets and files belong to the caller, who gives the time in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol, TypeGuard

from zmqbroker.commands import Member
from zmqbroker.errors import MalformedFrame
from zmqbroker.server.acquaintances import FRESH_NS, Acquaintances, PeerState
from zmqbroker.wire.entries import MACHINE_VERSION
from zmqbroker.wire.membership import members_from_wire, members_to_wire

__all__ = ["FRESH_NS", "MACHINE_VERSIONS", "PROTOCOL_VERSIONS", "Formation", "Former", "PeerState", "Record"]

PROTOCOL_VERSIONS = (1, 1)
#: An entry of another version would not be understood.
MACHINE_VERSIONS = (MACHINE_VERSION, MACHINE_VERSION)
_UID_SIZE = 16


class Record(Protocol):
    """The durable record of the formation: `storage.directory.DataDirectory`."""

    def save_formation(
        self, cluster_uid: bytes, founders: tuple[Member, ...], members_index: int, members: tuple[Member, ...]
    ) -> None:
        """Store that the node belongs to a cluster that the founders formed, and the newest members known."""
        ...


def _is_range(value: object) -> TypeGuard[list[int]]:
    """Whether a HELLO's versions are [lowest, highest]."""
    return isinstance(value, list) and len(value) == 2 and all(isinstance(number, int) for number in value)


@dataclass(frozen=True, slots=True)
class Former:
    """What a node that does not trust its data knows of its old self."""

    reason: str  # why it does not trust it
    cluster_uid: bytes  # 16 bytes; empty when that is not known either
    members: tuple[Member, ...]  # the newest that it knew


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
        founders: tuple[Member, ...],
        members: tuple[Member, ...],
        members_index: int,
        record: Record,
        mint: Callable[[], bytes],
        complain: Callable[[str], None],
        auto_rejoin: bool = True,
        former: Former | None = None,
    ) -> None:
        self.name, self.uid, self.cluster, self.volume, self.client = name, uid, cluster, volume, client
        self.addresses = peers  # configured: name -> host:port, this node included
        self.cluster_uid = cluster_uid  # empty until formed
        self.founders = founders  # who formed the cluster; empty until formed
        self.members = members  # the newest that are known, ascending by id; empty until formed
        self.members_index = members_index  # of the entry that made them so
        self.wiped = False  # True: the cluster knows this name under another uid
        self.recovering = former.reason if former is not None else ""  # empty: this node trusts its data, or has none
        self._former_cluster = former.cluster_uid if former is not None else b""
        self._auto_rejoin = auto_rejoin
        self.foreign: set[str] = set()  # peers that belong to another cluster
        self.known = Acquaintances(name, uid, peers)
        self._record, self._mint, self._complain = record, mint, complain
        self._said: set[str] = set()  # what was complained about itself
        if members:
            self.known.follow(members)
        if former is not None:
            self.known.introduce(member for member in former.members if member.name != name)

    @property
    def formed(self) -> bool:
        """Whether this node is, or was, a member of a formed cluster."""
        return bool(self.cluster_uid)

    @property
    def own(self) -> Member | None:
        """This node as a member; None before it is one, and after it was removed."""
        return self.member_with(self.uid)

    @property
    def removed(self) -> bool:
        """True when the cluster that this node belonged to goes on without it."""
        return self.formed and self.own is None

    def hello(self, answer: bool) -> dict[str, Any]:
        """The fields of this node's HELLO."""
        return {
            "name": self.name,
            "cluster": self.cluster,
            "volume": self.volume,
            "client": self.client,
            "peer": self.addresses[self.name],
            "protocol": list(PROTOCOL_VERSIONS),
            "machine": list(MACHINE_VERSIONS),
            "formed": self.formed,
            "rejoin": not self.formed and bool(self.wiped or self.recovering),
            "peers": sorted(self.addresses),
            **self._member_fields(),
            "answer": answer,
        }

    def _member_fields(self) -> dict[str, Any]:
        if not self.formed:
            return {"founders": None, "members": None, "members_index": 0}
        return {
            "founders": members_to_wire(self.founders),
            "members": members_to_wire(self.members),
            "members_index": self.members_index,
        }

    def form_fields(self) -> dict[str, Any]:
        """The fields of a FORM."""
        return {"cluster_uid": self.cluster_uid, "volume": self.volume, **self._member_fields()}

    def member_with(self, uid: bytes) -> Member | None:
        """The member with a node uid, if there is one."""
        for member in self.members:
            if member.uid == uid:
                return member
        return None

    # --- HELLO and FORM ----------------------------------------------------------------------------------------------

    def on_hello(self, sender_uid: bytes, cluster_uid: bytes, fields: dict[str, Any], now_ns: int) -> PeerState | None:
        """Take a HELLO; None when its sender is refused (the reason is said once)."""
        peer = self.known.meet(sender_uid, fields, formed=self.formed)
        if peer is None:
            return None
        if fault := self._fault(fields, cluster_uid):
            # A refused stranger is forgotten at once, so what was said of it is remembered here.
            self._complain_once(peer.faults if self.known.knows(peer) else self._said, fault)
            if cluster_uid and cluster_uid != self.cluster_uid and self._is_namesake(peer):
                self.foreign.add(peer.name)
            return None
        self.known.keep(peer)
        peer.uid, peer.client, peer.heard_ns = sender_uid, str(fields.get("client", "")), now_ns
        peer.formed, peer.cluster_uid = bool(fields.get("formed")), cluster_uid
        peer.rejoins = fields.get("rejoin") is True
        self.foreign.discard(peer.name)
        if peer.formed:
            self._consider(peer.cluster_uid, fields)
        elif self.formed and self.member_with(sender_uid) is None:
            self._note_newcomer(peer)
        return peer

    def _is_namesake(self, peer: PeerState) -> bool:
        """Whether another member has this name."""
        return any(member.name == peer.name and member.uid != self.uid for member in self.members)

    def _note_newcomer(self, peer: PeerState) -> None:
        namesake = any(member.name == peer.name for member in self.members)
        if namesake and peer.rejoins and self._auto_rejoin:
            text = (
                f"{peer.name} has lost its data, or does not trust it, and does not vote until it has taken its own place again"
            )
            self._complain_once(peer.faults, text)
            return
        way = f"zmqbroker cluster replace {peer.name}" if namesake else f"zmqbroker cluster add {peer.name}"
        what = "has an empty or another disk than the member of that name" if namesake else "is no member"
        self._complain_once(peer.faults, f"{peer.name} {what} and does not vote; to take it in: {way}")

    def _fault(self, fields: dict[str, Any], cluster_uid: bytes) -> str:
        name = fields.get("name")
        if fields.get("cluster") != self.cluster:
            return f"{name} is configured for cluster {fields.get('cluster')!r}, this node for {self.cluster!r}"
        if fields.get("volume") != self.volume:
            return f"{name} has volume mode {fields.get('volume')!r}, this node {self.volume!r}"
        if fields.get("peers") != sorted(self.addresses) and not self.formed and not fields.get("formed"):
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

    def _complain_once(self, said: set[str], fault: str) -> None:
        if fault not in said and len(said) < 16:
            said.add(fault)
            self._complain(fault)

    def _consider(self, cluster_uid: bytes, fields: dict[str, Any]) -> None:
        """Somebody's cluster: ours if it counts this very disk among its members."""
        try:
            founders, members = (members_from_wire(fields.get(key)) for key in ("founders", "members"))
        except MalformedFrame:
            return
        index = fields.get("members_index")
        if self._former_cluster not in (b"", cluster_uid):
            text = f"the data here is of cluster {self._former_cluster.hex()}, the other nodes are of {cluster_uid.hex()}"
            self._complain_once(self._said, text)
            return
        if not founders or not members or type(index) is not int:
            return
        if self.formed:
            self.learn(index, members)
        elif any(member.uid == self.uid for member in members):
            self._adopt(cluster_uid, founders, index, members)
        else:
            self.known.introduce(members)
            self._stay_outside(cluster_uid, members)

    def _stay_outside(self, cluster_uid: bytes, members: tuple[Member, ...]) -> None:
        """Say once how this node can become a member."""
        if any(member.name == self.name for member in members):
            self.wiped = True
            what = "is empty" if not self.recovering else "is not to be trusted"
            way = f"by zmqbroker cluster replace {self.name}" if not self._auto_rejoin else "which it does by itself"
            self._complain_once(
                self._said,
                f"this data directory {what}, and cluster {cluster_uid.hex()} knows {self.name} with another one: this node "
                f"does not vote until it has taken its own place again, {way} when a majority works without it",
            )
        else:
            text = (
                f"cluster {cluster_uid.hex()} does not know {self.name} yet; to take it in: zmqbroker cluster add {self.name}"
            )
            self._complain_once(self._said, text)

    def on_form(self, fields: dict[str, Any]) -> None:
        """Take a FORM; ignored by a node that is a member already."""
        cluster_uid = fields.get("cluster_uid")
        if not self.formed and isinstance(cluster_uid, bytes) and len(cluster_uid) == _UID_SIZE:
            self._consider(cluster_uid, fields)

    def _adopt(self, cluster_uid: bytes, founders: tuple[Member, ...], index: int, members: tuple[Member, ...]) -> None:
        self._record.save_formation(cluster_uid, founders, index, members)  # durable before anything depends on it
        self.cluster_uid, self.founders, self.members_index, self.members = cluster_uid, founders, index, members
        self.known.follow(members)

    # --- members -----------------------------------------------------------------------------------------------------

    def learn(self, index: int, members: Iterable[Member]) -> None:
        """The members as of the entry at `index`; ignored unless that is newer than what is known."""
        if index > self.members_index:
            self.members_index, self.members = index, tuple(members)
            self._record.save_formation(self.cluster_uid, self.founders, index, self.members)
            self.known.follow(self.members)

    def try_to_form(self, now_ns: int) -> bool:
        """Form the cluster if this node is the one to do it and all others were just heard to be empty."""
        peers = self.known.peers.values()
        if self.formed or self.wiped or self.recovering or self.name != min(self.addresses):
            return False
        if not all(peer.uid and not peer.formed and not peer.rejoins and now_ns - peer.heard_ns < FRESH_NS for peer in peers):
            return False
        uids = {self.name: self.uid, **{peer.name: peer.uid for peer in peers}}
        members = tuple(
            Member(number, name, uids[name], self.addresses[name]) for number, name in enumerate(sorted(uids), start=1)
        )
        self._adopt(self._mint(), members, 0, members)
        return True

    def missing(self, now_ns: int) -> list[str]:
        """Members, or configured peers, not heard of lately, as name (address)."""
        return [f"{peer.name} ({peer.address})" for peer in self.known.peers.values() if now_ns - peer.heard_ns >= FRESH_NS]
