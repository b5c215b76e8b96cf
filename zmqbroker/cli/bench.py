"""`zmqbroker bench`: throughput and latency of a running cluster, as a client sees them.

Producers and one consumer run in this process, so that one clock stamps and reads every message. Latencies go into HDR
histograms: no percentile is an average of averages. The queue gets a name of its own and is empty at the end.
"""

from __future__ import annotations

import asyncio
import platform
import secrets
import struct
import sys
import time
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import click

from zmqbroker.cli.options import CommandContext, json_option, together, url_option
from zmqbroker.cli.output import emit_json, emit_line, emit_table
from zmqbroker.errors import ConfigError, DeadlineExceeded

if TYPE_CHECKING:
    from zmqbroker.client import Confirm, Queue

__all__ = ["Latencies", "Workload", "bench"]

_STAMP = struct.Struct("<q")
_PERCENTILES = (50.0, 90.0, 99.0, 99.9)
#: The histograms hold 1 µs to one minute with three digits; whatever takes longer counts as one minute.
_LATENCY_US_MAX = 60_000_000
_LATENCY_ROWS = (("confirm", "confirm_ms"), ("end to end", "end_to_end_ms"))
#: Receives under way at once: while one batch is acked the next is on its way.
_RECEIVES, _RECEIVE_MESSAGES, _RECEIVE_WAIT_MS = 4, 2_048, 500
_REPORT_INTERVAL_S = 0.2
#: How long the consumer may go without a message after the last confirm before messages count as lost.
_SILENCE_S = 30


@dataclass(frozen=True)
class Workload:
    """What is measured."""

    channel: str
    size: int  # bytes of a body
    batch: int  # most messages in a batch; 1: each is awaited before the next
    producers: int
    count: int | None  # messages in all, None: until the time is over
    seconds: float


class Latencies:
    """A histogram of microseconds. Raises ConfigError when the package for it is not installed."""

    def __init__(self) -> None:
        try:
            from hdrh.histogram import HdrHistogram
        except ImportError as error:
            raise ConfigError(("bench needs the package hdrhistogram: pip install 'zmqbroker[bench]'",)) from error
        self._histogram = HdrHistogram(1, _LATENCY_US_MAX, 3)

    def record(self, started_ns: int) -> None:
        """Add the time from `started_ns` until now."""
        elapsed_us = (time.perf_counter_ns() - started_ns) // 1_000
        self._histogram.record_value(min(max(elapsed_us, 1), _LATENCY_US_MAX))

    def in_ms(self) -> dict[str, float]:
        """Percentiles and the maximum, in milliseconds."""
        values = {f"p{percent:g}": self._histogram.get_value_at_percentile(percent) / 1_000 for percent in _PERCENTILES}
        return {**values, "max": self._histogram.get_max_value() / 1_000}


@dataclass
class _Tally:
    """What happened so far."""

    confirm_latency: Latencies = field(default_factory=Latencies)
    delivery_latency: Latencies = field(default_factory=Latencies)
    sent: int = 0
    confirmed: int = 0
    received: int = 0
    confirm: str = ""
    started_s: float = field(default_factory=time.perf_counter)
    confirmed_s: float = 0.0  # when the last confirm came
    received_s: float = 0.0  # when the last message came
    all_sent: bool = False

    @property
    def complete(self) -> bool:
        """Whether everything was sent and has arrived."""
        return self.all_sent and self.received >= self.sent


@click.command()
@click.option(
    "--size", type=click.IntRange(_STAMP.size, 64 << 20), default=1_024, show_default=True, help="Bytes of a message."
)
@click.option(
    "--batch",
    type=click.IntRange(1, 65_535),
    default=256,
    show_default=True,
    help="Most messages in a batch; 1: one at a time.",
)
@click.option("--count", type=click.IntRange(1, 1_000_000_000), help="Messages in all.")
@click.option(
    "--seconds", type=click.FloatRange(0.1, 86_400), default=5.0, show_default=True, help="How long to send, without --count."
)
@click.option("--producers", type=click.IntRange(1, 64), default=2, show_default=True, help="Connections that send.")
@url_option
@json_option
@click.pass_obj
def bench(
    context: CommandContext, size: int, batch: int, count: int | None, seconds: float, producers: int, url: str, as_json: bool
) -> None:
    """Measure throughput, confirm latency and end-to-end latency of a queue."""
    workload = Workload(f"bench.{secrets.token_hex(4)}", size, batch, producers, count, seconds)
    tally = _Tally()
    asyncio.run(_measure(context, url, workload, tally))
    figures = _figures(workload, tally)
    if as_json:
        emit_json(figures)
    else:
        _show(figures)


async def _measure(context: CommandContext, url: str, workload: Workload, tally: _Tally) -> None:
    jobs = [_produce_all(context, url, workload, tally), _consume(context, url, workload, tally)]
    if sys.stderr.isatty():
        jobs.append(_report(workload, tally))
    await together(*jobs)


async def _produce_all(context: CommandContext, url: str, workload: Workload, tally: _Tally) -> None:
    shares: list[int | None] = [None] * workload.producers
    if workload.count is not None:
        low, more = divmod(workload.count, workload.producers)
        shares = [low + (number < more) for number in range(workload.producers)]
    await together(*(_produce(context, url, workload, tally, share) for share in shares))
    tally.all_sent = True


async def _produce(context: CommandContext, url: str, workload: Workload, tally: _Tally, share: int | None) -> None:
    """One connection that sends its share, or until the time is over."""
    deadline = time.perf_counter() + workload.seconds
    filler = bytes(workload.size - _STAMP.size)
    async with (
        context.connect(url) as client,
        client.queue(workload.channel).producer(
            batch_messages=workload.batch, linger_ms=0 if workload.batch == 1 else 1
        ) as producer,
    ):
        sent = 0
        while sent != share and (share is not None or time.perf_counter() < deadline):
            started_ns = time.perf_counter_ns()
            confirm = await producer.send(_STAMP.pack(started_ns) + filler)
            sent += 1
            tally.sent += 1
            confirm.add_done_callback(partial(_confirmed, tally, started_ns))
            if workload.batch == 1:
                await confirm
        await producer.flush()


def _confirmed(tally: _Tally, started_ns: int, done: Confirm) -> None:
    if done.exception() is not None:
        return  # flush raises it in the producer
    tally.confirm_latency.record(started_ns)
    tally.confirmed += 1
    tally.confirm = done.result().confirm
    tally.confirmed_s = time.perf_counter()


async def _consume(context: CommandContext, url: str, workload: Workload, tally: _Tally) -> None:
    """Receive and ack everything over one connection, with several requests under way."""
    async with context.connect(url) as client:
        queue = client.queue(workload.channel)
        await together(*(_drain(queue, tally) for _ in range(_RECEIVES)))


async def _drain(queue: Queue, tally: _Tally) -> None:
    """Receive until all that was sent has arrived. Raises DeadlineExceeded when nothing comes any more."""
    while not tally.complete:
        messages = await queue.receive(max=_RECEIVE_MESSAGES, wait_ms=_RECEIVE_WAIT_MS)
        if messages:
            for message in messages:
                tally.delivery_latency.record(_STAMP.unpack_from(message.body)[0])
            tally.received += len(messages)
            tally.received_s = time.perf_counter()
            await queue.ack(messages)
        elif tally.all_sent and time.perf_counter() - max(tally.received_s, tally.confirmed_s) > _SILENCE_S:
            raise DeadlineExceeded(f"{tally.received} of {tally.sent} messages arrived, then none for {_SILENCE_S} s")


async def _report(workload: Workload, tally: _Tally) -> None:
    """A progress bar on standard error."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        total = workload.count if workload.count is not None else workload.seconds
        bar = progress.add_task("", total=total)
        while not tally.complete:
            done = tally.confirmed if workload.count is not None else time.perf_counter() - tally.started_s
            progress.update(
                bar, completed=min(done, total), description=f"{tally.confirmed} confirmed, {tally.received} received"
            )
            await asyncio.sleep(_REPORT_INTERVAL_S)


def _figures(workload: Workload, tally: _Tally) -> dict[str, Any]:
    """The result: parameters, rates and latencies. Rates count from the first send to the last confirm or receive."""
    confirm_s = max(tally.confirmed_s - tally.started_s, 1e-9)
    receive_s = max(tally.received_s - tally.started_s, 1e-9)
    return {
        "parameters": asdict(workload),
        "version": version("zmqbroker"),
        "host": platform.node(),
        "confirm": tally.confirm,
        "sent": tally.sent,
        "received": tally.received,
        "confirmed_per_s": round(tally.confirmed / confirm_s, 1),
        "confirmed_mb_per_s": round(tally.confirmed * workload.size / confirm_s / 1e6, 3),
        "received_per_s": round(tally.received / receive_s, 1),
        "confirm_ms": tally.confirm_latency.in_ms(),
        "end_to_end_ms": tally.delivery_latency.in_ms(),
    }


def _show(figures: dict[str, Any]) -> None:
    parameters = figures["parameters"]
    emit_line(
        f"{figures['sent']} messages of {parameters['size']} bytes in batches of up to {parameters['batch']} "
        f"from {parameters['producers']} producers, confirmed by {figures['confirm']}"
    )
    emit_line(
        f"confirmed {figures['confirmed_per_s']:,.0f} messages/s ({figures['confirmed_mb_per_s']:,.1f} MB/s), "
        f"received {figures['received_per_s']:,.0f} messages/s"
    )
    names = list(figures["confirm_ms"])
    emit_table(
        ("latency in ms", *names),
        [(title, *(f"{figures[key][name]:.2f}" for name in names)) for title, key in _LATENCY_ROWS],
    )
