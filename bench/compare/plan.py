"""What is compared: the measurements with all their parameters, and the lines of the table with what each must reach.

Nothing here runs anything. A measurement gives several figures; a line is one figure of one measurement.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from bench.compare.rivals import RivalPlan, rabbitmq_plan, redis_plan
from bench.plan import KIB, Plan, PublishCase

__all__ = [
    "CEILING_LINES",
    "CONFIRM_ROW",
    "CONSUMED",
    "EXTRA_LINES",
    "EXTRA_ROWS",
    "FULL",
    "LINES",
    "PAST_BUDGET",
    "PURE_ROWS",
    "QUICK",
    "RIVAL_LINES",
    "ROWS",
    "VOLUMES",
    "VOLUMES_OF",
    "Bar",
    "ComparePlan",
    "Line",
    "Publishing",
]

VOLUMES = ("ephemeral", "persistent")
#: Of sides that do not have both; a quorum queue fsyncs whatever it is told.
VOLUMES_OF = {"rabbitmq": ("persistent",)}
#: What makes of the name of a batched row that of the same beside a consumer, and as a backlog past the log's budget.
CONSUMED, PAST_BUDGET = "-consumed", "-past-budget"
CONFIRM_ROW = "confirm-at-half-load"


@dataclass(frozen=True, kw_only=True, slots=True)
class Publishing:
    """A publish measurement of both sides; counts are messages."""

    row: str
    body_bytes: int
    batch_bytes: int  # of bodies in one of our batches; 0: one request a message
    count: int
    warmup_count: int
    window: int  # of our requests
    peer_count: int
    peer_warmup_count: int
    peer_window: int  # of theirs, each a message
    peer_burst: int  # messages in one write of theirs
    peer_flow: int  # messages that one confirm of fast ingest covers; 0: not measured, as no other client does it so
    sequenced: bool = True

    @property
    def peer_counts(self) -> tuple[int, int]:
        """Of the warm-up and measured ones of theirs."""
        return self.peer_warmup_count, self.peer_count

    def case(self) -> PublishCase:
        """Ours, as bench.load has it."""
        per_request = max(1, self.batch_bytes // self.body_bytes)
        return PublishCase(
            name=self.row,
            body_bytes=self.body_bytes,
            batch_bytes=self.batch_bytes,
            request_count=self.count // per_request,
            warmup_count=self.warmup_count // per_request,
            window=self.window,
            sequenced=self.sequenced,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparePlan:
    """A whole run."""

    rounds: int
    publishing: tuple[Publishing, ...]  # batched and unbatched
    single: Publishing  # one at a time
    saturated_count: int  # messages that tell how many a second NATS carries from sender to handler
    paced_s: tuple[float, float]  # warm-up and measured part of the open loop
    segment_bytes: int  # of the ceiling's files
    settle: bool
    budget_bytes: int  # of the log, where a backlog goes past it
    budget_times: int  # as long as the backlog gets
    redis: RivalPlan
    rabbitmq: RivalPlan

    def ceiling(self, rows: Collection[str]) -> Plan:
        """The part of these rows that the ceiling does too."""
        wanted = {line.row for line in CEILING_LINES}.intersection(rows)
        cases = tuple(item.case() for item in (*self.publishing, self.single) if item.row in wanted)
        return Plan(
            rounds=1,
            volumes=VOLUMES,
            publish=cases,
            consume=(),
            end_to_end=(),
            segment_bytes=self.segment_bytes,
            settle=self.settle,
        )


def _plan(
    scale: int, *, rounds: int, paced_s: tuple[float, float], segment_bytes: int, settle: bool, budget_bytes: int
) -> ComparePlan:
    """A plan with counts in proportion to `scale`, which is 1 for the smoke run."""
    # Ours have 2 MiB under way in batches, as in `python -m bench`; theirs what gave most when it was tried.
    batched_128 = Publishing(
        row="batched-128B",
        body_bytes=128,
        batch_bytes=64 * KIB,
        count=16 * 512 * scale,
        warmup_count=2 * 512 * scale,
        window=32,
        peer_count=2000 * scale,
        peer_warmup_count=500 * max(1, scale // 16),
        peer_window=5000,
        peer_burst=500,
        peer_flow=1000,
    )
    batched_1k = Publishing(
        row="batched-1KiB",
        body_bytes=KIB,
        batch_bytes=256 * KIB,
        count=4 * 256 * scale,
        warmup_count=256 * scale,
        window=8,
        peer_count=800 * scale,
        peer_warmup_count=100 * max(1, scale // 8),
        peer_window=1000,
        peer_burst=100,
        peer_flow=1000,
    )
    batched_16k = Publishing(
        row="batched-16KiB",
        body_bytes=16 * KIB,
        batch_bytes=256 * KIB,
        count=64 * scale,
        warmup_count=16 * scale,
        window=8,
        peer_count=50 * scale,
        peer_warmup_count=50 * max(1, scale // 16),
        peer_window=500,
        peer_burst=50,
        peer_flow=100,
    )
    unbatched = Publishing(
        row="unbatched-128B",
        body_bytes=128,
        batch_bytes=0,
        count=500 * scale,
        warmup_count=500 * max(1, scale // 16),
        window=5000,
        peer_count=2000 * scale,
        peer_warmup_count=500 * max(1, scale // 16),
        peer_window=5000,
        peer_burst=500,
        peer_flow=0,
        sequenced=False,
    )
    single = Publishing(
        row="one-at-a-time-1KiB",
        body_bytes=KIB,
        batch_bytes=0,
        count=12 * scale,
        warmup_count=2 * scale,
        window=1,
        peer_count=24 * scale,
        peer_warmup_count=2 * scale,
        peer_window=1,
        peer_burst=1,
        peer_flow=0,
        sequenced=False,
    )
    return ComparePlan(
        rounds=rounds,
        publishing=(batched_128, batched_1k, batched_16k, unbatched),
        single=single,
        saturated_count=500 * scale,
        paced_s=paced_s,
        segment_bytes=segment_bytes,
        settle=settle,
        budget_bytes=budget_bytes,
        budget_times=4,
        redis=redis_plan(scale),
        rabbitmq=rabbitmq_plan(scale),
    )


FULL = _plan(256, rounds=5, paced_s=(1.0, 5.0), segment_bytes=64 << 20, settle=True, budget_bytes=256 << 20)
#: Does everything once and measures nothing worth keeping.
QUICK = _plan(1, rounds=1, paced_s=(0.1, 0.2), segment_bytes=4 << 20, settle=False, budget_bytes=4 << 20)


# --- the table -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """What a ratio must reach, and what is hoped for."""

    must: float
    aim: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One figure of one measurement, ours over theirs."""

    name: str
    row: str
    figure: str
    unit: str
    digits: int
    higher: bool  # is better
    absolute: bool = False  # the bar is for our own figure, not for a ratio
    bars: Mapping[str, Bar]  # volume -> bar; without one the line only informs


def _line(row: str, figure: str, unit: str, digits: int, *bars: Bar, higher: bool = True, name: str = "") -> Line:
    """A line with its bars in the order of VOLUMES."""
    return Line(
        name=name or row,
        row=row,
        figure=figure,
        unit=unit,
        digits=digits,
        higher=higher,
        bars=dict(zip(VOLUMES, bars, strict=True)) if bars else {},
    )


#: Against the better of NATS's ways to do the same, volume against sync_interval.
LINES = (
    _line("batched-128B", "messages_per_s", "msg/s", 0, Bar(must=6, aim=12), Bar(must=8, aim=15)),
    _line("batched-1KiB", "mb_per_s", "MB/s", 1, Bar(must=2.2, aim=3.5), Bar(must=3, aim=5)),
    _line("batched-16KiB", "mb_per_s", "MB/s", 1, Bar(must=1.6, aim=3), Bar(must=1.2, aim=1.8)),
    _line("unbatched-128B", "messages_per_s", "msg/s", 0, Bar(must=1, aim=1.5), Bar(must=1)),
    _line(
        "one-at-a-time-1KiB",
        "p50_ms",
        "ms",
        3,
        Bar(must=1, aim=0.6),
        Bar(must=0.75, aim=0.5),
        higher=False,
        name="one-at-a-time-1KiB p50",
    ),
    _line(
        "one-at-a-time-1KiB",
        "p99_ms",
        "ms",
        3,
        Bar(must=1, aim=0.6),
        Bar(must=0.75, aim=0.5),
        higher=False,
        name="one-at-a-time-1KiB p99",
    ),
    _line("consume-ack-128B", "messages_per_s", "msg/s", 0, Bar(must=5, aim=10), Bar(must=5)),
    _line("send-to-handler-128B", "p50_ms", "ms", 3, higher=False, name="send-to-handler-128B p50"),
    _line("send-to-handler-128B", "p99_ms", "ms", 3, higher=False, name="send-to-handler-128B p99"),
    _line(
        "send-to-handler-128B",
        "p99.9_ms",
        "ms",
        3,
        Bar(must=1, aim=0.5),
        Bar(must=1, aim=0.5),
        higher=False,
        name="send-to-handler-128B p99.9",
    ),
    _line(
        "batched-128B",
        "server_cpu_us_per_message",
        "CPU s per million",
        3,
        Bar(must=0.5, aim=0.2),
        Bar(must=0.5),
        higher=False,
        name="cpu-128B",
    ),
)
#: Against the ceiling.
CEILING_LINES = (
    _line(
        "batched-1KiB", "mb_per_s", "MB/s", 1, Bar(must=0.6, aim=0.85), Bar(must=0.6, aim=0.85), name="batched-1KiB ÷ ceiling"
    ),
    _line(
        "one-at-a-time-1KiB",
        "p50_ms",
        "ms",
        3,
        Bar(must=1.4, aim=1.2),
        Bar(must=1.4, aim=1.2),
        higher=False,
        name="one-at-a-time-1KiB p50 ÷ ceiling",
    ),
)
#: The table.
ROWS = tuple(dict.fromkeys(line.row for line in LINES))
_BATCHED = [line for line in LINES if line.name.startswith("batched")]
#: Beside the table: the batched lines with a consumer that keeps up, one as a long backlog, and our own latency at half load.
EXTRA_LINES = (
    *(replace(line, name=line.row + CONSUMED, row=line.row + CONSUMED) for line in _BATCHED),
    *(
        replace(line, name=line.row + PAST_BUDGET, row=line.row + PAST_BUDGET)
        for line in _BATCHED
        if line.row == "batched-1KiB"
    ),
    Line(
        name=f"{CONFIRM_ROW} p99",
        row=CONFIRM_ROW,
        figure="p99_ms",
        unit="ms",
        digits=2,
        higher=False,
        absolute=True,
        bars={"ephemeral": Bar(must=10), "persistent": Bar(must=25)},
    ),
)
EXTRA_ROWS = tuple(line.row for line in EXTRA_LINES)


def _beside(side: str, *rows: str) -> tuple[Line, ...]:
    """The lines of these rows against a side that nothing must be reached against."""
    return tuple(replace(line, name=f"{line.name} ÷ {side}", bars={}) for line in LINES if line.row in rows)


_RIVAL_ROWS = ("batched-128B", "batched-1KiB", "one-at-a-time-1KiB", "consume-ack-128B")
PURE_ROWS = ("batched-128B", "unbatched-128B", "one-at-a-time-1KiB")
#: Against what else people would pick, and ours with `ZMQBROKER_PURE=1`; each of these sides does only these rows.
RIVAL_LINES = {
    "redis": _beside("redis", *_RIVAL_ROWS),
    "rabbitmq": _beside("rabbitmq", *_RIVAL_ROWS),
    "pure": _beside("pure", *PURE_ROWS),
}
