"""What goes wrong with a node, its log and its store."""

from __future__ import annotations

from zmqbroker.errors.base import BrokerError

__all__ = [
    "Compacted",
    "Corruption",
    "DataDirectoryError",
    "Divergence",
    "NoRoom",
    "RemovedFromCluster",
    "StorageError",
]


class RemovedFromCluster(BrokerError):
    """The cluster that this node belonged to goes on without it."""


class Divergence(BrokerError):
    """Two nodes have different states at one index; the message names the nodes and the first difference."""


class StorageError(BrokerError):
    """The log or the store cannot do what it was asked."""


class Corruption(StorageError):
    """Stored bytes that may have been acknowledged are damaged; the message names file and offset."""


class Compacted(StorageError):
    """The log no longer holds the index that was asked for."""


class NoRoom(StorageError):
    """The volume has no room for what was to be stored; nothing was changed, and it may be tried again."""


class DataDirectoryError(StorageError):
    """The data directory is in use by another process, of another cluster, or on a file system that cannot be trusted."""
