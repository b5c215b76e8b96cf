"""How much room the disk of a node's data directory has, and what a voter tells its leader of its disk.

A disk is *short* from when less is free than its low-water mark until a quarter more than that is, so that the answer does not
change with every message. Every heartbeat's response carries the report (docs/PROTOCOL.md §8), in fields that Raft leaves
unused there and never reads: a node whose log waits for room answers heartbeats, too. Decides nothing else, and takes the time
from its caller.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import NamedTuple

from zmqbroker.raft.messages import Message, MessageType

__all__ = ["DiskReport", "OwnSpace", "is_short", "low_water_of", "put_report", "report_of", "volume_of"]

#: The low-water mark where none is configured: a few seconds of publishes at full speed, for what is under way when the
#: leader hears of it, and for the store's growth; but of a small volume a twentieth at most.
LOW_WATER_BYTES, LOW_WATER_PART = 1 << 30, 20
#: A short disk is short until its low-water mark and one such part of it are free.
HYSTERESIS_PART = 4
#: How often the file system is asked while plenty is free: at 1 GB/s the answer is 200 MB old at most.
LOOK_NS = 200_000_000
#: With less than so many times the low-water mark free it is asked at every tick: what is below the mark is for what was
#: under way when it was reached, and not for what came before anybody looked.
NEAR = 2

#: Bits of a report's flags.
_SHORT, _SLOW = 1, 2

log = logging.getLogger("zmqbroker")


class DiskReport(NamedTuple):
    """What a node says of the disk under its data directory."""

    free_bytes: int
    low_water_bytes: int
    short: bool = False  # too little is free for more publishes
    slow: bool = False  # was found slow while it led, lately


def low_water_of(configured_bytes: int, volume_bytes: int) -> int:
    """The low-water mark that is in force; `configured_bytes` 0 leaves it to the size of the volume."""
    return configured_bytes or max(1, min(LOW_WATER_BYTES, volume_bytes // LOW_WATER_PART))


def is_short(free_bytes: int, low_water_bytes: int, was_short: bool) -> bool:
    """Whether a disk has too little room for publishes."""
    margin = low_water_bytes // HYSTERESIS_PART if was_short else 0
    return free_bytes < low_water_bytes + margin


def volume_of(path: str) -> tuple[int, int]:
    """Bytes that an ordinary user may still write on the file system of `path`, and its size. Raises OSError."""
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize


class OwnSpace:
    """The room on this node's disk, as of the last look: what is free there, and in the store's files, which never shrink."""

    def __init__(
        self,
        path: str,
        configured_bytes: int,
        reusable_bytes: Callable[[], int],
        volume: Callable[[str], tuple[int, int]] = volume_of,
    ) -> None:
        self._path, self._configured_bytes = path, configured_bytes
        self._reusable_bytes, self._volume = reusable_bytes, volume
        self._looked_ns: int | None = None
        self.free_bytes = self.low_water_bytes = 0  # before the first look
        self.short = False

    def look(self, now_ns: int, *, out_of_room: bool) -> None:
        """Ask the file system, unless plenty was free a moment ago. What cannot be asked is as it was.

        `out_of_room`: something waits to be written, so there is too little room, whatever is said to be free.
        """
        plenty = self.free_bytes >= NEAR * self.low_water_bytes
        if self._looked_ns is not None and plenty and now_ns - self._looked_ns < LOOK_NS:
            return
        self._looked_ns = now_ns
        try:
            free_bytes, size_bytes = self._volume(self._path)
        except OSError as error:
            log.debug("%s: cannot be asked for its free space: %s", self._path, error)
            return
        self.free_bytes = free_bytes + self._reusable_bytes()
        self.low_water_bytes = low_water_of(self._configured_bytes, size_bytes)
        short = out_of_room or is_short(self.free_bytes, self.low_water_bytes, self.short)
        if short != self.short:
            self.short = short
            text = "%s: %d bytes are free and the low-water mark is %d: %s"
            what = "no room for more messages here, until some were acked" if short else "there is room again"
            log.log(logging.WARNING if short else logging.INFO, text, self._path, self.free_bytes, self.low_water_bytes, what)


def put_report(message: Message, report: DiskReport) -> None:
    """Let a heartbeat's response tell of its sender's disk."""
    assert message.type is MessageType.HEARTBEAT_RESPONSE, message
    message.index, message.log_term = report.free_bytes, report.low_water_bytes
    message.reject_hint = report.short * _SHORT | report.slow * _SLOW


def report_of(message: Message) -> DiskReport | None:
    """What a heartbeat's response tells; None for nothing, as before the first look."""
    if not message.log_term:
        return None
    flags = message.reject_hint
    return DiskReport(message.index, message.log_term, bool(flags & _SHORT), bool(flags & _SLOW))
