"""Who a data directory belongs to: one small file that is replaced whole or not at all (documents.py).

It refuses to guess: a damaged or missing identity beside existing data is an error, because a node under a wrong identity may
vote twice.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from zmqbroker.commands import Member
from zmqbroker.errors import Corruption, DataDirectoryError
from zmqbroker.storage.disk import OS_DISK, Disk
from zmqbroker.storage.documents import read_value, write_document

__all__ = ["DATA_NAMES", "IDENTITY_NAME", "NEEDED_NAMES", "Identity", "claim_identity", "read_identity", "write_identity"]

#: File name of the identity in a data directory.
IDENTITY_NAME = "identity.json"
#: Directories of a node's data beside it.
DATA_NAMES = ("log", "state", "bodies", "snapshots")
#: Those without which a member has forgotten what it promised.
NEEDED_NAMES = ("log", "state", "bodies")

#: What never changes in a directory, and how an operator calls it.
_FIXED = {"cluster_name": "cluster", "name": "node", "volume": "volume mode", "owner": "the command"}


@dataclass(slots=True, frozen=True, kw_only=True)
class Identity:
    """The node, its cluster, and who may use the directory."""

    node_uid: bytes  # 16 random bytes, new with every new data directory
    name: str
    volume: str  # "ephemeral" or "persistent"
    cluster_name: str
    owner: str  # "serve" or "dev": they never share a directory
    cluster_uid: bytes | None = None  # 16 bytes; None until the cluster is formed
    founders: tuple[Member, ...] = ()  # who formed the cluster; empty until it is formed
    members: tuple[Member, ...] = ()  # the newest that are known, ascending by id; empty until the cluster is formed
    members_index: int = 0  # index of the entry that made them so; 0: the formation

    def check(self, wanted: Identity, source: Path) -> None:
        """Raise DataDirectoryError, naming what differs, when the directory `source` is not for the use of `wanted`."""
        for attribute, words in _FIXED.items():
            found, value = getattr(self, attribute), getattr(wanted, attribute)
            if found != value:
                raise DataDirectoryError(f"{source}: belongs to {words} {found!r}, not {value!r}")


def _to_fields(identity: Identity) -> dict[str, Any]:
    return {
        "node_uid": identity.node_uid.hex(),
        "name": identity.name,
        "volume": identity.volume,
        "cluster_name": identity.cluster_name,
        "owner": identity.owner,
        "cluster_uid": None if identity.cluster_uid is None else identity.cluster_uid.hex(),
        "founders": _to_list(identity.founders),
        "members": _to_list(identity.members),
        "members_index": identity.members_index,
    }


def _to_list(members: tuple[Member, ...]) -> list[dict[str, Any]]:
    return [{**asdict(member), "uid": member.uid.hex()} for member in members]


def _from_list(members: list[dict[str, Any]]) -> tuple[Member, ...]:
    return tuple(Member(**{**member, "uid": bytes.fromhex(member["uid"])}) for member in members)


def _from_fields(fields: dict[str, Any]) -> Identity:
    rest = dict(fields)
    uid = rest.pop("cluster_uid")
    members = _from_list(rest.pop("members"))
    founders = _from_list(rest.pop("founders", None) or []) or members  # format 1 as it was before members could change
    return Identity(
        node_uid=bytes.fromhex(rest.pop("node_uid")),
        cluster_uid=None if uid is None else bytes.fromhex(uid),
        founders=founders,
        members=members,
        **rest,
    )


def claim_identity(directory: Path, wanted: Identity, disk: Disk = OS_DISK) -> Identity:
    """The stored identity, if it is for the same use as `wanted`; `wanted` itself, durable, in a new directory.

    Raises Corruption when data is there without an identity, and as `read_identity` and `write_identity`.
    """
    found = read_identity(directory, disk)
    if found is not None:
        found.check(wanted, directory)
        return found
    names = disk.names(directory)
    data = [name for name in NEEDED_NAMES if name in names]
    if data:
        raise Corruption(f"{directory / IDENTITY_NAME}: is missing, but the data of a node is there ({', '.join(data)})")
    write_identity(directory, wanted, disk)
    return wanted


def write_identity(directory: Path, identity: Identity, disk: Disk = OS_DISK) -> None:
    """Replace the identity of `directory`; durable when this returns. Raises OSError."""
    write_document(directory / IDENTITY_NAME, "identity", _to_fields(identity), disk)


def read_identity(directory: Path, disk: Disk = OS_DISK) -> Identity | None:
    """The identity of `directory`, None when it has none. Raises Corruption, DataDirectoryError or OSError."""
    return read_value(directory / IDENTITY_NAME, "identity", _from_fields, disk)
