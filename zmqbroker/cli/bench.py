"""`zmqbroker bench`: throughput and latency of a running cluster, as a client sees them.

Producers and one consumer run in this process, so that one clock stamps and reads every message. Without --rate they send as
fast as they are let, and a latency runs from the send. With it every message is *due* at an instant of its own whatever became
of those before, and a latency runs from there (no coordinated omission): a stall counts for all that it held up, and so does a
client that is late, which is told beside it. The queue gets a name of its own and is empty at the end.
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
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click
from click.core import ParameterSource

from zmqbroker.cli import bench_explain
from zmqbroker.cli.bench_diff import diff
from zmqbroker.cli.bench_explain import Explanation
from zmqbroker.cli.bench_latency import Latencies, hgrm_path
from zmqbroker.cli.options import CommandContext, Connect, json_option, together, url_option
from zmqbroker.cli.output import emit_json, emit_line, emit_table
from zmqbroker.errors import DeadlineExceeded

if TYPE_CHECKING:
    from zmqbroker.client import Confirm, Queue

__all__ = ["Workload", "bench"]

_STAMP = struct.Struct("<q")
_LATENCY_ROWS = (("confirm", "confirm_ms"), ("end to end", "end_to_end_ms"), ("client late", "start_ms"))
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
    rate: int | None = None  # messages per second of all producers, None: as many as go
    explain: bool = False  # whether single messages beside the load ask where their time goes

    def count_at_rate(self) -> int:
        """Messages in all of an open loop."""
        assert self.rate is not None, "there is no rate"
        return self.count if self.count is not None else max(1, round(self.rate * self.seconds))


@dataclass
class _Tally:
    """What happened so far."""

    confirm_latency: Latencies = field(default_factory=Latencies)
    delivery_latency: Latencies = field(default_factory=Latencies)
    explanation: Explanation = field(default_factory=Explanation)
    start_latency: Latencies = field(default_factory=Latencies)  # how late messages were sent; of an open loop only
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
        return self.all_sent and self.received >= self.sent + self.explanation.sent


@click.group(invoke_without_command=True)
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
@click.option(
    "--rate",
    type=click.IntRange(1, 10_000_000),
    help="Messages per second of all producers: an open loop, with latencies from when each was due.",
)
@click.option("--explain", is_flag=True, help="Also tell where a confirm's time goes.")
@click.option(
    "--target",
    type=click.Choice(["zmqbroker", "nats", "redis"]),
    default="zmqbroker",
    show_default=True,
    help="What is measured; nats: JetStream, at --url nats://host:port; redis: Streams and WAIT, at --url redis://host:port.",
)
@click.option(
    "--hgrm",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write percentile distributions: RUN.hgrm gives RUN.confirm.hgrm and RUN.end-to-end.hgrm.",
)
@url_option
@json_option
@click.pass_context
def bench(click_context: click.Context, /, url: str, as_json: bool, target: str, hgrm: Path | None, **parameters: Any) -> None:
    """Measure throughput, confirm latency and end-to-end latency of a queue."""
    if click_context.invoked_subcommand is not None:
        return
    workload = Workload(f"bench.{secrets.token_hex(4)}", **parameters)
    tally, context = _Tally(), click_context.obj
    if target != "zmqbroker":
        if workload.explain:
            raise click.UsageError(f"--explain asks zmqbroker; --target {target} cannot answer")
        context, url = _context_of(target, click_context, url)
    asyncio.run(_measure(context, url, workload, tally))
    figures = {"target": target, **_figures(workload, tally)}
    if hgrm is not None:
        tally.confirm_latency.write_hgrm(hgrm_path(hgrm, "confirm"))
        tally.delivery_latency.write_hgrm(hgrm_path(hgrm, "end-to-end"))
    if as_json:
        emit_json(figures)
    else:
        _show(figures)


bench.add_command(diff)


def _context_of(target: str, click_context: click.Context, url: str) -> tuple[CommandContext, str]:
    """The way to another broker, and where it is when nobody said so; its module is loaded now."""
    rival: Any
    if target == "nats":
        from zmqbroker.cli.bench_nats import nats_target

        rival = nats_target()
    else:
        from zmqbroker.cli.bench_redis import redis_target

        rival = redis_target()
    if click_context.get_parameter_source("url") is ParameterSource.DEFAULT:
        url = rival.default_url
    return CommandContext(connect=cast(Connect, rival.connect)), url


async def _measure(context: CommandContext, url: str, workload: Workload, tally: _Tally) -> None:
    jobs = [_send_all(context, url, workload, tally), _consume(context, url, workload, tally)]
    if sys.stderr.isatty():
        jobs.append(_report(workload, tally))
    await together(*jobs)


async def _send_all(context: CommandContext, url: str, workload: Workload, tally: _Tally) -> None:
    """The load, and beside it the messages that explain themselves."""
    load_ended = asyncio.Event()

    async def load() -> None:
        await _produce_all(context, url, workload, tally)
        load_ended.set()

    jobs = [load()]
    if workload.explain:
        jobs.append(_explain(context, url, workload, tally, load_ended))
    await together(*jobs)
    tally.all_sent = True


async def _explain(context: CommandContext, url: str, workload: Workload, tally: _Tally, until: asyncio.Event) -> None:
    filler = bytes(workload.size - _STAMP.size)
    async with context.connect(url) as client:
        queue = client.queue(workload.channel)
        await tally.explanation.ask(queue, lambda: _STAMP.pack(time.perf_counter_ns()) + filler, until)


async def _produce_all(context: CommandContext, url: str, workload: Workload, tally: _Tally) -> None:
    if workload.rate is not None:
        together_now = asyncio.Barrier(workload.producers)
        await together(
            *(_produce_paced(context, url, workload, tally, number, together_now) for number in range(workload.producers))
        )
        return
    shares: list[int | None] = [None] * workload.producers
    if workload.count is not None:
        low, more = divmod(workload.count, workload.producers)
        shares = [low + (number < more) for number in range(workload.producers)]
    await together(*(_produce(context, url, workload, tally, share) for share in shares))


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


async def _produce_paced(
    context: CommandContext, url: str, workload: Workload, tally: _Tally, number: int, connected: asyncio.Barrier
) -> None:
    """One connection that sends each of its messages when it is due; they take turns with those of the other connections."""
    assert workload.rate is not None, "there is no rate"
    filler, interval_ns = bytes(workload.size - _STAMP.size), 1_000_000_000 / workload.rate
    async with (
        context.connect(url) as client,
        client.queue(workload.channel).producer(
            batch_messages=workload.batch, linger_ms=0 if workload.batch == 1 else 1
        ) as producer,
    ):
        await connected.wait()
        begin_ns = time.perf_counter_ns()
        tally.started_s = begin_ns / 1e9
        for place in range(number, workload.count_at_rate(), workload.producers):
            due_ns = begin_ns + int(place * interval_ns)
            if (early_ns := due_ns - time.perf_counter_ns()) > 0:
                await asyncio.sleep(early_ns / 1e9)
            tally.start_latency.record(due_ns)
            confirm = await producer.send(_STAMP.pack(due_ns) + filler)
            tally.sent += 1
            confirm.add_done_callback(partial(_confirmed, tally, due_ns))
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
        **({} if workload.rate is None else {"start_ms": tally.start_latency.in_ms()}),
        **({"explain_ms": tally.explanation.figures()} if workload.explain else {}),
    }


def _show(figures: dict[str, Any]) -> None:
    parameters = figures["parameters"]
    emit_line(
        f"{figures['sent']} messages of {parameters['size']} bytes in batches of up to {parameters['batch']} "
        f"from {parameters['producers']} producers, confirmed by {figures['confirm']}"
        + (f", {parameters['rate']:,} due per second" if parameters["rate"] else "")
    )
    emit_line(
        f"confirmed {figures['confirmed_per_s']:,.0f} messages/s ({figures['confirmed_mb_per_s']:,.1f} MB/s), "
        f"received {figures['received_per_s']:,.0f} messages/s"
    )
    names = list(figures["confirm_ms"])
    emit_table(
        ("latency in ms", *names),
        [(title, *(f"{figures[key][name]:.2f}" for name in names)) for title, key in _LATENCY_ROWS if key in figures],
    )
    if "explain_ms" in figures:
        bench_explain.show(figures["explain_ms"])
