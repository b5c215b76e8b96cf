"""The bounds of the state machine.

Every replica must use the same ones, since they decide which commands are refused: they belong to the machine's version and
are no setting of a node. Tests pass tiny ones.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["MachineLimits"]


@dataclass(slots=True, frozen=True, kw_only=True)
class MachineLimits:
    """Replicated constants of the machine, changed only together with its version."""

    results_kept: int = 128  # per producer; docs/PROTOCOL.md §4 allows that many unanswered batches
    producers_max: int = 10_000  # per channel (PROTOCOL §4); at 128 results each about 30 MB of state
    channels_max: int = 250_000  # per group; a channel costs about 7.5 KB of memory even when it is empty
    dedup_ids_max: int = 1_000_000  # messages whose ids a channel keeps
    waiting_max: int = 10_000  # waiting receives per channel; ten full connections of 1024 requests each
    schedules_max: int = 10_000  # per group; some 500 bytes of state each, and an entry of the log, or its body in the store
    schedule_kept_ms: int = 3_600_000  # of one that has ended: longer than anybody repeats the request that made it
    defaults_max: int = 1_000  # patterns per group; some 200 bytes each
    routes_max: int = 1_000  # per group; some 200 bytes each, at 64 destinations of the longest names 17 KB
    bindings_max: int = 1_000  # per group; the same
    bound_queues_max: int = 1_000  # that all bindings name together: what one message can be stored in; some 10 us each
    redriven_max: int = 500  # batches that one redrive looks at; each takes some 20 µs, so a follower's tick is not missed
    moved_max: int = 10_000  # ranges of sequences that moved away, per channel; some 100 bytes each
    taken_ready: int = 1_024  # events that a store's consumer has ready while somebody waits; 5 ms where each is a record
    taken_records: int = 1_024  # events that it takes for a receive which needs fewer; the same
    parked_max: int = 4_096  # events of a consumer that wait for others of their key, when it takes no more; 20 ms
    retry_ms: int = 1_000  # hint of the BUSY answers; waits and channels end slowly, so asking sooner is no use
