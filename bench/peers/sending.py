"""What publishing to every peer has in common: the bodies, and one message at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from random import Random

from bench.load import BODIES, Figures
from bench.meter import Meter
from bench.peers.raw import RawConnection
from bench.plan import SEED

__all__ = ["bodies_of", "send_one_by_one"]


def bodies_of(size: int) -> list[bytes]:
    """The bodies that are sent in turn: the same that ours are."""
    chance = Random(SEED)
    return [chance.randbytes(size) for _ in range(BODIES)]


def send_one_by_one(
    connection: RawConnection,
    frames: Sequence[bytes],
    is_confirmed: Callable[[bytes], int],
    meter: Meter,
    body_bytes: int,
    counts: tuple[int, int],
) -> Figures:
    """Send each message after the confirm of the one before, warm-up first, and close the connection.

    `is_confirmed` is given what has come, and says whether the message that is under way is confirmed by it.
    """

    def send(count: int) -> Iterator[int]:
        for number in range(count):
            started_ns = time.perf_counter_ns()
            connection.write(frames[number % len(frames)])
            connection.flush()
            while not is_confirmed(connection.exchange()):
                pass
            yield time.perf_counter_ns() - started_ns

    warmup_ns = list(send(counts[0]))
    assert len(warmup_ns) == counts[0], "each send was timed"
    meter.start()
    latencies_ns = list(send(counts[1]))
    spent = meter.stop()
    connection.close()
    return Figures(counts[1], counts[1] * body_bytes, spent, latencies_ns)
