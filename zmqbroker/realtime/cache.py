"""Answers to queries that are kept for a while, at the node of those who ask.

What is kept is opaque. It is bounded by count and bytes, and what was used longest ago makes room. Each channel has its own
keys and its own statistics. Time is the shell's, in nanoseconds of a monotonic clock. PROTOCOL §3, CALL.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, NamedTuple

__all__ = ["AnswerCache", "CacheStats"]

#: What an answer counts beside its bytes: the keys and entries of two dictionaries.
OVERHEAD_BYTES = 256
#: Channels whose statistics are kept; the one asked about longest ago is forgotten first.
CHANNELS_MAX = 1000


class CacheStats(NamedTuple):
    """What the cache did."""

    hits: int
    misses: int
    answers: int  # that are kept, some of them perhaps too old
    size_bytes: int


class _Kept(NamedTuple):
    value: Any
    size: int
    until_ns: int


class _Counts:
    """Of one channel."""

    __slots__ = ("hits", "keys", "misses", "size_bytes")

    def __init__(self) -> None:
        self.hits = self.misses = self.size_bytes = 0
        self.keys: set[str] = set()  # of the answers that are kept


class AnswerCache:
    """(channel, key) -> an answer."""

    def __init__(self, count_max: int, bytes_max: int) -> None:
        self._count_max, self._bytes_max = count_max, bytes_max
        self._kept: OrderedDict[tuple[str, str], _Kept] = OrderedDict()  # the one used longest ago first
        self._channels: OrderedDict[str, _Counts] = OrderedDict()  # likewise
        self._hits = self._misses = self._size_bytes = 0  # of all channels, also of those that are forgotten

    def get(self, channel: str, key: str, now_ns: int) -> Any:
        """What is kept under a key, None for nothing; counted as a hit or a miss."""
        counts = self._counts(channel)
        kept = self._kept.get((channel, key))
        if kept is not None and now_ns >= kept.until_ns:
            self._drop(channel, key)
            kept = None
        if kept is None:
            counts.misses += 1
            self._misses += 1
            return None
        self._kept.move_to_end((channel, key))
        counts.hits += 1
        self._hits += 1
        return kept.value

    def put(self, channel: str, key: str, value: Any, size: int, until_ns: int) -> bool:
        """Keep an answer of `size` bytes in place of any older one; False when it is too large to be kept at all."""
        if (channel, key) in self._kept:
            self._drop(channel, key)
        size += OVERHEAD_BYTES
        if size > self._bytes_max:
            return False
        counts = self._counts(channel)
        counts.keys.add(key)
        counts.size_bytes += size
        self._size_bytes += size
        self._kept[channel, key] = _Kept(value, size, until_ns)
        while self._size_bytes > self._bytes_max or len(self._kept) > self._count_max:
            self._drop(*next(iter(self._kept)))
        return True

    def stats(self, channel: str | None = None) -> CacheStats:
        """Of one channel, or of all."""
        if channel is None:
            return CacheStats(self._hits, self._misses, len(self._kept), self._size_bytes)
        counts = self._channels.get(channel) or _Counts()
        return CacheStats(counts.hits, counts.misses, len(counts.keys), counts.size_bytes)

    def _drop(self, channel: str, key: str) -> None:
        size = self._kept.pop((channel, key)).size
        counts = self._channels[channel]
        counts.keys.remove(key)
        counts.size_bytes -= size
        self._size_bytes -= size

    def _counts(self, channel: str) -> _Counts:
        counts = self._channels.get(channel)
        if counts is None:
            counts = self._channels[channel] = _Counts()
            if len(self._channels) > CHANNELS_MAX:
                oldest = next(iter(self._channels))
                for key in sorted(self._channels[oldest].keys):  # what is told of a channel is true: its answers go, too
                    self._drop(oldest, key)
                del self._channels[oldest]
        self._channels.move_to_end(channel)
        return counts
