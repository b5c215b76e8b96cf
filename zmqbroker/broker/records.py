"""What a channel knows of stored messages: where their frame is, and what their producer said of them.

A record stands for neighbours in one batch frame that are treated alike. As a rule that is the whole batch; a batch whose
columns differ has several records, and a message that moves to another channel takes its part of the frame along: bodies are
never copied.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from zmqbroker.commands import RECEIPT_ORDINAL_BITS, ChannelSettings, Origin, Publish, Run

__all__ = [
    "INSTANT_MAX",
    "BatchRecord",
    "Moment",
    "aged",
    "are_all_of",
    "deadline_after",
    "instant_after",
    "record_of",
    "records_of",
    "wait_end",
]

#: Instants are u64 on the wire and in the store; a deadline beyond the last one is the last one.
INSTANT_MAX = 2**64 - 1
#: Delays and expirations end at whole steps of this, so that neighbours with the same delay are one range.
INSTANT_STEP_NS = 10_000_000
#: Waits end at steps of this part of them, or half of that: 256 ms for the 10 s of the Python client.
WAIT_PARTS = 32


def deadline_after(now_unix_ns: int, delay_ms: int) -> int:
    """The instant `delay_ms` milliseconds after `now_unix_ns`, at most the last one that can be stored."""
    return min(now_unix_ns + max(delay_ms, 0) * 1_000_000, INSTANT_MAX)


def instant_after(now_unix_ns: int, delay_ms: int) -> int:
    """The first whole step of 10 ms that is not before `delay_ms` milliseconds after `now_unix_ns`."""
    return min(-(-deadline_after(now_unix_ns, delay_ms) // INSTANT_STEP_NS) * INSTANT_STEP_NS, INSTANT_MAX)


def wait_end(now_unix_ns: int, wait_ms: int) -> int:
    """When a receive that waits is answered at the latest: up to a thirty-second part of its wait late, never early.

    The waits of many consumers end together at steps of that size: two entries for all of them instead of two for each.
    """
    end_unix_ns = deadline_after(now_unix_ns, wait_ms)
    if wait_ms < 2 * WAIT_PARTS:
        return end_unix_ns
    step_ns = 1_000_000 << ((wait_ms // WAIT_PARTS).bit_length() - 1)
    return min(-(-end_unix_ns // step_ns) * step_ns, INSTANT_MAX)


class Moment(NamedTuple):
    """Where in the log something happens, and when."""

    assigning: int  # first part of the receipts of whatever is assigned now
    now_unix_ns: int  # the machine's time

    @property
    def entry_index(self) -> int:
        """Index of the entry."""
        return self.assigning >> RECEIPT_ORDINAL_BITS


@dataclass(slots=True, eq=False)
class BatchRecord:
    """Messages low .. of the batch frame at bytes position .. position + size of entry `index`. Compared by identity."""

    index: int
    position: int
    size: int
    body_bytes: int  # at most: of these messages
    body_size_max: int
    time_unix_ns: int  # when they were stored first
    live: int  # messages that are not finished; derived from the ranges and not stored
    low: int = 0  # place of the first one in its frame
    share_bytes: int = 0  # their part of `size`: that of all records of a frame together is the frame
    priority: int = 0
    expires_unix_ns: int = 0  # 0: never
    origin: Origin | None = None  # of the first message, when they were moved here
    group: str = ""  # "": none

    def fitting(self, count: int, room: int, total: int) -> int:
        """How many of `count` of its `total` messages count at most `room` bytes together; below 1 for none."""
        if self.received_size(count, total) <= room:
            return count
        rest = self._rest
        fitting = room * total // max(self.body_size_max * total + rest, 1)
        # Where few are large, all bodies together may be less than so many of the largest.
        return max(fitting, (room - self.body_bytes) * total // rest) if rest else fitting

    def received_size(self, count: int, total: int) -> int:
        """What `count` of its `total` messages count for their receiver, in bytes.

        That is the most that their bodies can have, and their share of what else is in the frame: sizes, ids, headers. The
        share is an average: nobody looks into a frame.
        """
        return self.size_at_most(count) - (-self._rest * count // total)

    @property
    def _rest(self) -> int:
        """Bytes of the frame, as far as it is these messages', that are not their bodies."""
        return max(self.share_bytes - self.body_bytes, 0)

    def size_at_most(self, count: int) -> int:
        """Bytes that the bodies of any `count` messages of this record cannot exceed."""
        return min(count * self.body_size_max, self.body_bytes)

    def part(self, offset: int, count: int, total: int) -> BatchRecord:
        """The record of `count` of its `total` messages, from the one at `offset` on."""
        frame = self.index, self.position, self.size, self.size_at_most(count), self.body_size_max, self.time_unix_ns
        share_bytes, origin = self.share_of(offset, count, total), self.origin_at(offset)
        # Every field in its order: 1.6 µs less than `replace`, for every record that a consumer of an events store takes.
        return BatchRecord(
            *frame, count, self.low + offset, share_bytes, self.priority, self.expires_unix_ns, origin, self.group
        )

    def share_of(self, offset: int, count: int, total: int) -> int:
        """Bytes of `count` of its `total` messages, from the one at `offset` on, where each has as many as the others."""
        return self.share_bytes * (offset + count) // total - self.share_bytes * offset // total

    def origin_at(self, offset: int) -> Origin | None:
        """Where the message at `offset` was before it was moved here; None when it was not."""
        return replace(self.origin, sequence=self.origin.sequence + offset) if self.origin and offset else self.origin

    def is_over(self, now_unix_ns: int) -> bool:
        """Whether its messages have expired."""
        return 0 < self.expires_unix_ns <= now_unix_ns


def aged(expires_unix_ns: int, settings: ChannelSettings, now_unix_ns: int) -> int:
    """When messages that are stored now are gone (0: never): at their expiry, or sooner where their channel wants it so."""
    if not settings.max_age_ms:
        return expires_unix_ns
    oldest = instant_after(now_unix_ns, settings.max_age_ms)
    return min(expires_unix_ns or oldest, oldest)


def are_all_of(runs: tuple[Run, ...], count: int) -> bool:
    """Whether runs say something of each of `count` messages once."""
    counts = [run.count for run in runs]
    return min(counts) >= 1 and sum(counts) == count


def record_of(command: Publish, moment: Moment) -> BatchRecord:
    """The record of a whole batch."""
    header, size = command.header, command.size
    position, bytes_max = command.position, header.body_size_max
    return BatchRecord(
        moment.entry_index, position, size, header.body_bytes, bytes_max, moment.now_unix_ns, header.count, 0, size
    )


def records_of(command: Publish, settings: ChannelSettings, moment: Moment) -> Iterator[tuple[BatchRecord, int]]:
    """The records of a batch in order, each with the instant at which it becomes ready; 0: at once."""
    header, now_unix_ns, low = command.header, moment.now_unix_ns, 0
    whole = record_of(command, moment)
    for run in command.runs or (Run(header.count),):
        record = whole.part(low, run.count, header.count) if run.count < header.count else whole
        record.priority, record.group = run.priority, run.group
        if expiry_ms := run.expiry_ms or settings.expiry_ms:
            record.expires_unix_ns = instant_after(now_unix_ns, expiry_ms)
        record.expires_unix_ns = aged(record.expires_unix_ns, settings, now_unix_ns)
        delay_ms = run.delay_ms or settings.delay_ms
        yield record, instant_after(now_unix_ns, delay_ms) if delay_ms else 0
        low += run.count
