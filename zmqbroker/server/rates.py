"""How many messages a second went into a channel and out of it, from counters that are looked at when somebody asks.

A node keeps for each channel that it was asked about what the counters were at two earlier answers: the newer one becomes the
older one when it is `STEP_NS` old. A rate is what was counted since the older one. So nothing is done for a batch, or for a
channel that nobody asks about, and no node tells the rates of another. Nothing here is replicated or stored.

Source: docs/PROTOCOL.md §3, CHANNEL.
"""

from __future__ import annotations

from typing import NamedTuple

from zmqbroker.commands import QueueStats

__all__ = ["CHANNELS_MAX", "Rate", "Rates"]

#: Who asks often is told of the last 5 to 10 s.
STEP_NS = 5_000_000_000
#: A rate over less than this says more of the batches than of their sender.
WINDOW_MIN_NS = 500_000_000
#: Channels that are remembered, some 500 bytes each; those that nobody has asked about for longest are forgotten first.
CHANNELS_MAX = 10_000


class Rate(NamedTuple):
    """Messages a second over a time, rounded up: 0 is none."""

    window_ms: int  # 0: there is no earlier answer to compare with, and both rates are 0
    sent_per_s: int = 0
    delivered_per_s: int = 0


class _Sample(NamedTuple):
    time_ns: int
    incarnation: int  # of the channel: counters of another one are not compared
    sent: int
    delivered: int


class Rates:
    """What the counters of channels were at earlier answers of this node."""

    def __init__(self) -> None:
        self._samples: dict[str, tuple[_Sample, _Sample]] = {}  # older and newer, by channel, longest not asked first

    def __len__(self) -> int:
        """Channels that are remembered."""
        return len(self._samples)

    def ask(self, stats: QueueStats, now_ns: int) -> Rate:
        """The rates of a channel whose counters are these now, at an instant of the monotonic clock."""
        now = _Sample(now_ns, stats.incarnation, stats.sent, stats.delivered)
        known = self._samples.pop(stats.channel, None)
        if known is None or known[1].incarnation != now.incarnation:
            known = now, now
        if now_ns - known[1].time_ns >= STEP_NS:
            known = known[1], now
        self._samples[stats.channel] = known
        if len(self._samples) > CHANNELS_MAX:
            del self._samples[next(iter(self._samples))]
        return _rate(known[0], now)


def _rate(then: _Sample, now: _Sample) -> Rate:
    window_ns = now.time_ns - then.time_ns
    if window_ns < WINDOW_MIN_NS:
        return Rate(0)
    sent, delivered = (
        -(-count * 1_000_000_000 // window_ns) for count in (now.sent - then.sent, now.delivered - then.delivered)
    )
    return Rate(window_ns // 1_000_000, sent, delivered)
