"""When messages fall due that the broker sends by itself, again and again.

Which instants a plan means is computed on every node when an entry is applied, so it can never change: integers only, nothing
of a clock or a calendar but `cron`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from zmqbroker.commands.cron import cron_fault, next_minute, parse_cron

__all__ = ["EVERY_MS_MIN", "Plan"]

#: More often than once a second is the business of a producer.
EVERY_MS_MIN = 1_000
_INSTANT_MAX = 2**64 - 1
_MS, _MINUTE_NS = 1_000_000, 60_000_000_000


@dataclass(slots=True, frozen=True)
class Plan:
    """When a schedule falls due. Zeros, and an empty text, say nothing."""

    every_ms: int = 0  # at equal distances, or else by `cron`
    first_unix_ns: int = 0  # where the instants at equal distances begin
    delay_ms: int = 0  # or so long after the schedule was made; neither: after one distance
    cron: str = ""
    times: int = 0  # how often at most
    until_unix_ns: int = 0  # the last instant at which it may

    def fault(self) -> str | None:
        """Why this is no plan, as a sentence with the value; None when it is one."""
        if self.cron:
            if self.every_ms or self.first_unix_ns or self.delay_ms:
                return f"cron is {self.cron!r}: it says all by itself, without every_ms, first_unix_ns and delay_ms"
            fault = cron_fault(self.cron)
            return None if fault is None else f"cron: {fault}"
        if self.every_ms < EVERY_MS_MIN:
            return f"every_ms is {self.every_ms}, allowed is {EVERY_MS_MIN} and more, or else cron"
        if self.first_unix_ns and self.delay_ms:
            return f"first_unix_ns is {self.first_unix_ns} and delay_ms {self.delay_ms}: at most one of them is said"
        return None

    def first_instant(self, now_unix_ns: int) -> int | None:
        """The first instant that is not before now, with `cron` behind it; None when there is none. In ns since 1970."""
        if self.cron:
            return self.next_instant(0, now_unix_ns)
        every_ns = self.every_ms * _MS
        begin = self.first_unix_ns or now_unix_ns + (self.delay_ms or self.every_ms) * _MS
        return self._in_time(begin + max(-((begin - now_unix_ns) // every_ns), 0) * every_ns)

    def next_instant(self, instant_unix_ns: int, now_unix_ns: int) -> int | None:
        """The first instant after now, of a plan that has fallen due at one not after now; those between are left out."""
        if self.cron:
            return self._in_time(next_minute(parse_cron(self.cron), now_unix_ns // _MINUTE_NS) * _MINUTE_NS)
        every_ns = self.every_ms * _MS
        return self._in_time(instant_unix_ns + ((now_unix_ns - instant_unix_ns) // every_ns + 1) * every_ns)

    def _in_time(self, instant_unix_ns: int) -> int | None:
        return instant_unix_ns if instant_unix_ns <= (self.until_unix_ns or _INSTANT_MAX) else None

    def said(self) -> dict[str, int | str]:
        """The parts that say something, by name."""
        return {item.name: value for item in fields(self) if (value := getattr(self, item.name)) != item.default}
