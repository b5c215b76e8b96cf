"""How far an entry had come when: what a confirm tells to who asked for it (docs/PROTOCOL.md §3, `explain`).

A timeline is made for an entry only when somebody asks about a message in it, so it costs nothing otherwise. All times are of
the leader's monotonic clock.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["STEPS", "Timeline"]

#: The steps of a confirm, in their order but for the log's, which others need not wait for: a majority without the leader may
#: have the entry first.
STEPS = ("proposed", "logged", "fsynced", "quorum", "applied", "sent")


@dataclass(slots=True)
class Timeline:
    """When an entry had come how far, in ns; 0 while it has not, and for `fsynced` where nothing is synced."""

    proposed_ns: int
    logged_ns: int = 0  # the leader's own log has written it
    fsynced_ns: int = 0  # and synced it, and its loop knows
    quorum_ns: int = 0  # a majority has it, the leader included or not
    applied_ns: int = 0

    def fields(self, received_ns: int, sent_ns: int) -> dict[str, int]:
        """Microseconds from the arrival of a request to each step that had been taken when it was answered."""
        times = (self.proposed_ns, self.logged_ns, self.fsynced_ns, self.quorum_ns, self.applied_ns, sent_ns)
        return {step: max(time_ns - received_ns, 0) // 1000 for step, time_ns in zip(STEPS, times, strict=True) if time_ns}
