"""What makes settings valid: ranges, forms of names and addresses, and rules between several keys.

A fault is a pair: the key ("table.key") and a sentence that names the value. All of them are found, never only the first.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from zmqbroker.config.sections import ClusterConfig, LimitsConfig, ListenConfig, NodeSection, RaftTimingConfig, StorageConfig

__all__ = ["CLUSTER_SIZE_MAX", "WILDCARD_HOSTS", "Peer", "parse_peer", "section_faults", "split_address"]

#: Above nine voters each further node costs every message a copy and buys nothing that a second cluster would not.
CLUSTER_SIZE_MAX = 9

#: Hosts that mean "every interface": good to bind, impossible to connect to.
WILDCARD_HOSTS = frozenset({"0.0.0.0", "*", "::"})

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_NAME_RULE = "1 to 63 letters, digits, dots, dashes and underscores, the first a letter or digit"
# What Python makes of bytes in an argument or a variable that are no UTF-8.
_SURROGATE = re.compile(r"[\ud800-\udfff]")
# sockaddr_un holds 108 bytes with the closing zero.
_IPC_PATH_BYTES_MAX = 107
_ENDPOINTS_MAX = 8

Fault = tuple[str, str]


@dataclass(frozen=True, slots=True, order=True)
class Peer:
    """One node of the cluster as the configuration names it."""

    name: str
    host: str
    port: int

    @property
    def address(self) -> str:
        """`host:port`, an IPv6 host in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def split_address(text: str) -> tuple[str, int] | None:
    """Read `host:port` (an IPv6 host in brackets); None when it is neither."""
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\s:/\[\]\ud800-\udfff]+)):([0-9]{1,5})", text)
    if match is None or int(match[3]) > 65_535:
        return None
    return match[1] or match[2], int(match[3])


def parse_peer(text: str) -> Peer | None:
    """Read one `name=host:port` of cluster.peers; None when it is not of that form."""
    name, _, rest = text.partition("=")
    address = split_address(rest)
    if address is None or not _NAME.fullmatch(name):
        return None
    return Peer(name, *address)


def section_faults(sections: Mapping[str, Any]) -> list[Fault]:
    """Find every fault of a configuration; `sections` holds one object per table."""
    faults = [fault for table, section in sections.items() for fault in _range_faults(table, section)]
    node: NodeSection = sections["node"]
    for key, name in (("node.name", node.name), ("cluster.name", sections["cluster"].name)):
        if not _NAME.fullmatch(name):
            faults.append((key, f"{name!r} is not a name: {_NAME_RULE}"))
    if not node.data_dir or "\0" in node.data_dir:
        faults.append(("node.data_dir", f"{node.data_dir!r} is not a path"))
    faults += _listen_faults(sections["listen"])
    faults += _advertise_faults(node, sections["listen"], sections["cluster"])
    faults += _peer_faults(sections["cluster"], node)
    faults += _relation_faults(sections["raft"], sections["storage"], sections["limits"])
    return faults


def _range_faults(table: str, section: Any) -> Iterator[Fault]:
    """Check each value against the range or the choices declared beside it."""
    for item in fields(section):
        value, extra = getattr(section, item.name), item.metadata
        if "low" in extra and not extra["low"] <= value <= extra["high"]:
            yield f"{table}.{item.name}", f"{value} is not between {extra['low']} and {extra['high']}"
        if extra.get("choices") and value not in extra["choices"]:
            yield f"{table}.{item.name}", f"{value!r} is not one of {', '.join(extra['choices'])}"


def _endpoint_fault(endpoint: str) -> str | None:
    """Say what is wrong with a ZeroMQ endpoint for clients."""
    scheme, separator, rest = endpoint.partition("://")
    if separator and scheme == "tcp" and split_address(rest) is not None:
        return None
    if separator and scheme == "ipc" and rest.startswith("/") and "\0" not in rest:
        if _SURROGATE.search(rest):
            return f"{endpoint!r} is not valid Unicode"
        if len(rest.encode()) <= _IPC_PATH_BYTES_MAX:
            return None
        return f"the path of {endpoint!r} has more than {_IPC_PATH_BYTES_MAX} bytes"
    return f"{endpoint!r} is neither tcp://host:port nor ipc:///path"


def _listen_faults(listen: ListenConfig) -> Iterator[Fault]:
    """Check where the sockets are bound."""
    if not 1 <= len(listen.client) <= _ENDPOINTS_MAX:
        yield "listen.client", f"there are {len(listen.client)} endpoints, not 1 to {_ENDPOINTS_MAX}"
    for endpoint in listen.client:
        if fault := _endpoint_fault(endpoint):
            yield "listen.client", fault
    address = split_address(listen.peer)
    if address is None:
        yield "listen.peer", f"{listen.peer!r} is not host:port"
    elif address[1] and f"tcp://{listen.peer}" in listen.client:
        yield "listen.peer", f"{listen.peer} is an address of listen.client too"


def _advertise_faults(node: NodeSection, listen: ListenConfig, cluster: ClusterConfig) -> Iterator[Fault]:
    """Check that clients can connect to what they are told."""
    hosts = [address[0] for text in listen.client if (address := split_address(text.removeprefix("tcp://")))]
    if not node.advertise:
        if hosts and hosts[0] in WILDCARD_HOSTS and not cluster.peers:
            yield "node.advertise", f"clients cannot be told {hosts[0]} (listen.client): give the endpoint that they are to use"
    elif fault := _endpoint_fault(node.advertise):
        yield "node.advertise", fault
    elif (told := split_address(node.advertise.removeprefix("tcp://"))) and (told[0] in WILDCARD_HOSTS or not told[1]):
        yield "node.advertise", f"clients cannot connect to {node.advertise}"


def _peer_faults(cluster: ClusterConfig, node: NodeSection) -> Iterator[Fault]:
    """Check the list of peers: form, size, no name or address twice, this node among them."""
    key, peers = "cluster.peers", [parse_peer(text) for text in cluster.peers]
    for text, peer in zip(cluster.peers, peers, strict=True):
        if peer is None:
            yield key, f"{text!r} is not name=host:port"
        elif peer.host in WILDCARD_HOSTS:
            yield key, f"{text!r}: the other nodes cannot connect to {peer.host}"
    if len(peers) > CLUSTER_SIZE_MAX:
        yield key, f"{len(peers)} nodes are more than {CLUSTER_SIZE_MAX}"
    known = [peer for peer in peers if peer is not None]
    for what, seen in (("name", Counter(peer.name for peer in known)), ("address", Counter(_placed(known)))):
        for value, count in seen.items():
            if count > 1:
                yield key, f"the {what} {value} is there {count} times"
    if known and node.name not in {peer.name for peer in known}:
        yield "node.name", f"{node.name} is not among the names of cluster.peers: {', '.join(sorted(p.name for p in known))}"


def _placed(peers: list[Peer]) -> list[str]:
    """Addresses with a fixed port: port 0 is chosen by the system, so that two of them differ."""
    return [peer.address for peer in peers if peer.port]


def _relation_faults(raft: RaftTimingConfig, storage: StorageConfig, limits: LimitsConfig) -> Iterator[Fault]:
    """Check what one key demands of another."""
    if raft.election_ticks < 2 * raft.heartbeat_ticks:
        yield (
            "raft.election_ticks",
            f"{raft.election_ticks} is less than twice raft.heartbeat_ticks ({raft.heartbeat_ticks}): one late heartbeat would "
            "unseat the leader",
        )
    if raft.uncommitted_bytes_max < limits.batch_bytes_max:
        yield (
            "raft.uncommitted_bytes_max",
            f"{raft.uncommitted_bytes_max} is less than the largest batch, limits.message_bytes_max + 1 MiB "
            f"({limits.batch_bytes_max})",
        )
    if storage.log_budget_bytes < 4 * storage.segment_bytes:
        yield (
            "storage.log_budget_bytes",
            f"{storage.log_budget_bytes} is less than four segments of {storage.segment_bytes} (storage.segment_bytes), "
            "the reserve for what was admitted",
        )
