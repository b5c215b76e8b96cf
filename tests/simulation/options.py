"""What one run is: size of the cluster, limits, timings, load and faults, all drawn from the seed (swarm testing).

A mix of faults is drawn per seed, since faults that are all always on hide what only some of them together would find. A
quarter of the seeds have none at all: they show what the load alone does.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

from tests.simulation.world import MILLISECOND, SECOND, Chance

__all__ = ["DAMAGE", "FAULTS", "Options", "draw"]

#: Every fault that a nemesis can cause. The order is part of what a seed means.
FAULTS = (
    "kill",  # a process ends; what it gave to the operating system stays
    "power_cut",  # a machine ends: a random part of what was not synced stays
    "power_cut_all",
    "pause",  # a process stands still, then goes on with what piled up
    "partition",
    "one_way",  # one direction of one link
    "partial",  # one link of a mesh, both directions
    "reset",  # a connection ends: what was under way is lost or comes late
    "storm",  # a link loses, repeats and delays much more for a while
    "old_frames",  # frames of long ago arrive once more
    "garble",  # frames arrive damaged
    "slow_disk",
    "sync_error",
    "disk_full",
    "short_io",
    "torn_call",  # a process or machine ends between two calls of its disk
    "wipe",
    "clock_jump",
    "clock_rate",
    "membership",
    "bad_change",  # membership changes that cannot be made
    "transfer",
    "forget_leader",
    "unreachable",  # a hint that something sent was lost
    "compact",
    "consumer_crash",
    "producer_crash",
)

#: Faults of disks that change or hide what was stored; never on so many that the rest is no majority. Drawn beside the others,
#: so that what the seeds without them mean is what it was.
DAMAGE = (
    "bit_flip",  # on the disk
    "flip_read",  # on the way from the disk
    "stray_write",  # a write that was meant for elsewhere
    "bad_sector",  # a sector cannot be read any more
)

#: Seeds above may have a store: those below are the runs that they were before there were any.
STORE_SEEDS = 100

_QUIET_SHARE = 0.25
_DAMAGE_SHARE = 0.5
_PLAIN_SHARE = 0.35


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """One run. Times are nanoseconds of virtual time."""

    seed: int
    nodes: int
    segments: bool = True  # the log in segment files on a simulated disk; False: in memory, which is faster
    sync: bool = True  # persistent mode; False: ephemeral, whose machines never lose power
    encode: bool = True  # messages between nodes become bytes and back
    tick_ns: int = 10 * MILLISECOND
    election_ticks: int = 10
    heartbeat_ticks: int = 1
    inflight_messages_max: int = 256
    inflight_bytes_max: int = 1 << 20
    message_bytes_max: int = 1 << 16
    uncommitted_bytes_max: int = 1 << 20
    committed_bytes_max: int = 1 << 20
    reads_max: int = 64
    requests_max: int = 1024
    segment_bytes: int = 1 << 16
    trim_bytes: int = 1 << 14
    log_budget_bytes: int = 0  # size of the log above which bodies move to the store; 0: they never do
    flush_ns: int = 100 * MILLISECOND
    keep_entries: int = 0  # with compaction: entries kept behind what the store holds; 0: only what nobody needs is dropped
    session_timeout_ns: int = SECOND
    delay_ns: int = MILLISECOND  # of a frame, at least a tenth of it
    loss: float = 0.0
    repeat: float = 0.0
    fifo: bool = True  # frames of one link keep their order, as on one connection
    sync_delay_ns: int = MILLISECOND
    channels: int = 1
    producers: int = 2
    consumers: int = 2
    readers: int = 1
    send_interval_ns: int = 10 * MILLISECOND
    body_bytes_max: int = 100
    chaos_ns: int = 4 * SECOND
    fault_interval_ns: int = 300 * MILLISECOND
    faults: tuple[str, ...] = field(default=())
    ruled: float = 0.0  # chance of a channel to have rules: limits, bounds, a dead-letter channel
    treated: float = 0.0  # share of the batches with delays, expirations and priorities, on channels with rules
    store: bool = False  # there is an events store, with durable consumers
    routed: bool = False  # a queue is bound to that store, and messages are sent to it and another queue at once
    settled: float = 0.0  # share of the deliveries that are not acked but nacked, rejected, requeued or extended there

    @property
    def election_ns(self) -> int:
        """The shortest election timeout."""
        return self.election_ticks * self.tick_ns


def _limits(chance: Chance, body_bytes_max: int) -> dict[str, int]:
    message = chance.choice((1, 200, 1 << 16))
    return {
        "inflight_messages_max": chance.choice((1, 3, 256)),
        "message_bytes_max": message,
        "inflight_bytes_max": chance.choice((message, 4 * message, 1 << 20)),
        # Room for one largest batch and a little more: one that never fits beside others can starve.
        "uncommitted_bytes_max": chance.choice((20 * body_bytes_max, 1 << 20)),
        "committed_bytes_max": chance.choice((1, 500, 1 << 20)),
        "reads_max": chance.choice((2, 64)),
        "requests_max": chance.choice((8, 1024)),
        "segment_bytes": chance.choice((1 << 12, 1 << 14, 1 << 16)),
        "trim_bytes": chance.choice((500, 1 << 14)),
        "keep_entries": chance.choice((0, 0, 1, 20)),
    }


def _network(chance: Chance) -> dict[str, object]:
    return {
        "delay_ns": chance.choice((MILLISECOND // 5, MILLISECOND, 5 * MILLISECOND)),
        "loss": chance.choice((0.0, 0.0, 0.01, 0.1, 0.3)),
        "repeat": chance.choice((0.0, 0.0, 0.05)),
        "fifo": chance.happens(0.7),
        "encode": chance.happens(0.4),
    }


def _queues(chance: Chance) -> dict[str, float]:
    """What the channels are asked for beside sends, receives and acks."""
    if chance.happens(_PLAIN_SHARE):
        return {}
    return {
        "ruled": chance.choice((0.5, 1.0)),
        "treated": chance.choice((0.0, 0.3, 0.8)),
        "settled": chance.choice((0.1, 0.3, 0.6)),
    }


def _damage(chance: Chance) -> tuple[str, ...]:
    return tuple(fault for fault in DAMAGE if chance.happens(0.6)) if chance.happens(_DAMAGE_SHARE) else ()


def draw(seed: int, *, nodes: int | None = None) -> Options:
    """The options that `seed` stands for; `nodes` overrides only the size."""
    chance = Chance(seed, 1)
    size = chance.choice((1, 3, 3, 3, 3, 5, 5))
    sync = chance.happens(0.85)
    body_bytes_max = chance.choice((30, 400))
    options: dict[str, object] = {
        "seed": seed,
        "nodes": size if nodes is None else nodes,
        "segments": chance.happens(0.7),
        "sync": sync,
        "heartbeat_ticks": chance.choice((1, 1, 3)),
        "flush_ns": chance.choice((20, 100, 1000)) * MILLISECOND,
        "sync_delay_ns": chance.choice((MILLISECOND // 4, MILLISECOND, 8 * MILLISECOND)),
        "channels": chance.choice((1, 1, 2)),
        "producers": chance.between(1, 3),
        "consumers": chance.between(1, 3),
        "readers": chance.between(0, 2),
        "send_interval_ns": chance.choice((4, 15, 40)) * MILLISECOND,
        "body_bytes_max": body_bytes_max,
        "chaos_ns": chance.between(2, 6) * SECOND,
        "fault_interval_ns": chance.choice((80, 250, 700)) * MILLISECOND,
    }
    quiet = chance.happens(_QUIET_SHARE)
    share = chance.choice((0.15, 0.35, 0.7))
    faults = tuple(fault for fault in FAULTS if chance.happens(share))
    limits, network = _limits(chance, body_bytes_max), _network(chance)
    if quiet:
        faults = ()
        network |= {"loss": 0.0, "repeat": 0.0}
    one_by_one = limits["message_bytes_max"] == 1 and (
        limits["inflight_messages_max"] == 1 or limits["inflight_bytes_max"] <= 4
    )
    if one_by_one:
        # An entry for every way there and back: with more load than that nothing is wedged, and nothing is ever caught up with.
        clients = cast(int, options["producers"]) + cast(int, options["consumers"])
        way_ns = cast(int, network["delay_ns"]) + cast(int, options["sync_delay_ns"])
        options["send_interval_ns"] = max(cast(int, options["send_interval_ns"]), 12 * clients * way_ns)
        network["loss"] = 0.0  # each loss stops everything until the next heartbeat
    # Drawn last, so that what seeds meant before stays as it was.
    budget = chance.choice((0, 0, 3, 5))
    options["log_budget_bytes"] = budget * (limits["segment_bytes"] if options["segments"] else 2 * body_bytes_max)
    if not sync:
        faults = tuple(fault for fault in faults if not fault.startswith(("power_cut", "sync_error", "wipe")))
    if not one_by_one:
        options |= _queues(Chance(seed, 11))
        options["store"] = seed > STORE_SEEDS and seed % 10 in (4, 6)
        options["routed"] = seed > STORE_SEEDS and seed % 10 == 6
    if faults and options["segments"] and cast(int, options["nodes"]) > 2:
        faults += _damage(Chance(seed, 9))
    return Options(**options, **limits, **network, faults=faults)  # type: ignore[arg-type]
