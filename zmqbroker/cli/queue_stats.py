"""`zmqbroker queue stats`: the counters of a queue, once or again and again."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from zmqbroker.cli.channel_tables import exact, rate_text, show_counters
from zmqbroker.cli.options import CommandContext, json_option, timeout_option, url_option
from zmqbroker.cli.output import emit_json, emit_line

if TYPE_CHECKING:
    from zmqbroker.client import Client

__all__ = ["stats"]

#: What is watched: headings, and the fields of CHANNEL under them.
_WATCHED = {
    "ready": "ready",
    "in flight": "in_flight",
    "delayed": "delayed",
    "consumers": "consumers",
    "in/s": "sent_per_s",
    "out/s": "delivered_per_s",
    "dead-lettered": "dead_lettered",
}
_WIDTH = 14


@click.command()
@click.argument("channel")
@click.option("--watch", type=click.IntRange(1, 3600), metavar="SECONDS", help="Ask again and again, a line each time.")
@click.option("--times", type=click.IntRange(1), help="How often to ask with --watch; until Ctrl-C unless given.")
@url_option
@timeout_option(5_000)
@json_option
@click.pass_obj
def stats(
    context: CommandContext, channel: str, watch: int | None, times: int | None, url: str, timeout_ms: int, as_json: bool
) -> None:
    """Show the counters of CHANNEL; `zmqbroker channel describe` also shows its settings.

    Rates are those since an earlier answer of the same node (the last 5 to 10 s where it is asked often), "-" without one.
    """
    if times is not None and watch is None:
        raise click.UsageError("--times says how often to ask with --watch")

    async def follow(client: Client) -> None:
        first = True
        async for fields in _asked(client, channel, watch, times):
            if as_json:
                emit_json(exact(fields))
            elif watch is None:
                show_counters(fields)
            else:
                _show_line(fields, heading=first)
            sys.stdout.flush()
            first = False

    context.run(url, timeout_ms, follow)


async def _asked(client: Client, channel: str, watch: int | None, times: int | None) -> AsyncIterator[dict[str, Any]]:
    count = 1
    yield await client.queue(channel).stats()
    while watch is not None and count != times:
        await asyncio.sleep(watch)
        yield await client.queue(channel).stats()
        count += 1


def _show_line(fields: Mapping[str, Any], *, heading: bool) -> None:
    if heading:
        emit_line("".join(f"{heading:>{_WIDTH}}" for heading in _WATCHED))
    emit_line("".join(f"{rate_text(fields, name):>{_WIDTH}}" for name in _WATCHED.values()))
