"""What is measured of those that people would pick besides NATS: counts, and the windows that did best when they were tried."""

from __future__ import annotations

from dataclasses import dataclass

from bench.plan import KIB

__all__ = ["RivalLoad", "RivalPlan", "rabbitmq_plan", "redis_plan"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RivalLoad:
    """One publish measurement; counts are messages."""

    row: str
    body_bytes: int
    count: int
    warmup_count: int
    burst: int  # messages in one write; divides counts and window
    windows: tuple[int, ...]  # unconfirmed messages, of each way that is tried

    @property
    def counts(self) -> tuple[int, int]:
        """Of the warm-up and measured ones."""
        return self.warmup_count, self.count


@dataclass(frozen=True, kw_only=True, slots=True)
class RivalPlan:
    """All of one rival; what the first of `publishing` has left is consumed."""

    name: str
    publishing: tuple[RivalLoad, ...]
    single: RivalLoad  # one at a time


def _single(count: int, warmup_count: int) -> RivalLoad:
    return RivalLoad(row="one-at-a-time-1KiB", body_bytes=KIB, count=count, warmup_count=warmup_count, burst=1, windows=(1,))


def redis_plan(scale: int) -> RivalPlan:
    """Redis Streams. A connection has one burst under way, so a window of three bursts means three connections.

    Without fsync one connection does more, with it three do.
    """
    return RivalPlan(
        name="redis",
        publishing=(
            RivalLoad(
                row="batched-128B",
                body_bytes=128,
                count=2500 * max(1, scale // 2),
                warmup_count=7500,
                burst=2500,
                windows=(2500, 7500),
            ),
            RivalLoad(
                row="batched-1KiB",
                body_bytes=KIB,
                count=1000 * max(1, scale // 4),
                warmup_count=3000,
                burst=1000,
                windows=(1000, 3000),
            ),
        ),
        single=_single(16 * scale, 2 * scale),
    )


def rabbitmq_plan(scale: int) -> RivalPlan:
    """RabbitMQ quorum queues; windows of 1,000 to 5,000 differed by 5 %."""

    def load(row: str, body_bytes: int, count: int) -> RivalLoad:
        warmup_count = 2000
        return RivalLoad(row=row, body_bytes=body_bytes, count=count, warmup_count=warmup_count, burst=200, windows=(2000,))

    return RivalPlan(
        name="rabbitmq",
        publishing=(load("batched-128B", 128, 200 * max(1, scale // 2)), load("batched-1KiB", KIB, 200 * max(1, scale // 4))),
        single=_single(8 * scale, scale),
    )
