"""Exit statuses, and which error ends in which. docs/OPERATIONS.md lists them for users."""

from __future__ import annotations

from enum import IntEnum

from zmqbroker import errors

__all__ = ["Exit", "exit_status"]


class Exit(IntEnum):
    """What the status of a command says."""

    DONE = 0
    REFUSED = 1  # by the broker
    USAGE = 2  # of the command, or a configuration with faults
    UNREACHABLE = 3  # no node, no majority, or no answer in time
    NOTHING_THERE = 4
    DENIED = 5
    DAMAGED = 6  # or different from what it should be
    INTERNAL = 70  # a bug, or a failed fsync
    INTERRUPTED = 130  # Ctrl-C, as shells count it


# The first class that fits decides, so that a subclass stands before its parent.
_STATUS: tuple[tuple[type[errors.BrokerError], Exit], ...] = (
    (errors.NoMajority, Exit.UNREACHABLE),
    (errors.NotLeader, Exit.UNREACHABLE),
    (errors.DeadlineExceeded, Exit.UNREACHABLE),
    (errors.ChannelNotFound, Exit.NOTHING_THERE),
    (errors.NodeNotFound, Exit.NOTHING_THERE),
    (errors.ScheduleNotFound, Exit.NOTHING_THERE),
    (errors.RouteNotFound, Exit.NOTHING_THERE),
    (errors.NoResponder, Exit.NOTHING_THERE),
    (errors.RequestError, Exit.REFUSED),
    (errors.RemovedFromCluster, Exit.REFUSED),
    (errors.ConfigError, Exit.USAGE),
    (errors.LocalProtocolError, Exit.USAGE),
    (errors.UnreadableBody, Exit.DAMAGED),
    (errors.RemoteProtocolError, Exit.UNREACHABLE),
    (errors.Corruption, Exit.DAMAGED),
    (errors.Divergence, Exit.DAMAGED),
    (errors.DataDirectoryError, Exit.USAGE),
)


def exit_status(error: errors.BrokerError) -> Exit:
    """The exit status of a command that ends with `error`."""
    return next((status for kind, status in _STATUS if isinstance(error, kind)), Exit.INTERNAL)
