"""`zmqbroker queue`: send to, receive from, look at and clear queues. Sending and receiving have files of their own."""

from __future__ import annotations

import click

from zmqbroker.cli.exits import Exit
from zmqbroker.cli.options import CommandContext, json_option, timeout_option, url_option
from zmqbroker.cli.output import emit_json, emit_line, note
from zmqbroker.cli.queue_receive import peek, receive
from zmqbroker.cli.queue_send import send
from zmqbroker.cli.queue_stats import stats
from zmqbroker.cli.readable import plain_text
from zmqbroker.wire.batch import SEQUENCE_MAX
from zmqbroker.wire.frames import U64_MAX

__all__ = ["queue"]

_TIMEOUT_MS = 30_000


@click.group()
def queue() -> None:
    """Send to, receive from, look at and clear queues."""


for command in (send, receive, peek, stats):
    queue.add_command(command)


def _say(channel: str, count: int, done: str, as_json: bool) -> None:
    """Tell with how many messages it was done."""
    if as_json:
        emit_json({"channel": channel, "count": count})
    else:
        emit_line(f"{plain_text(channel)}: {count} {'message' if count == 1 else 'messages'} {done}")


@queue.command()
@click.argument("channel")
@url_option
@timeout_option(_TIMEOUT_MS)
@json_option
@click.pass_obj
def purge(context: CommandContext, channel: str, url: str, timeout_ms: int, as_json: bool) -> None:
    """Finish all messages of CHANNEL that nobody holds, the delayed ones too."""
    _say(channel, context.run(url, timeout_ms, lambda client: client.queue(channel).purge()), "purged", as_json)


@queue.command()
@click.argument("channel")
@url_option
@timeout_option(_TIMEOUT_MS)
@json_option
@click.pass_obj
def ack_all(context: CommandContext, channel: str, url: str, timeout_ms: int, as_json: bool) -> None:
    """Finish all messages of CHANNEL, the delayed ones and those in flight too: none of them is delivered again."""
    count = context.run(url, timeout_ms, lambda client: client.queue(channel).purge(in_flight=True))
    _say(channel, count, "finished, counting those in flight", as_json)


@queue.command()
@click.argument("channel")
@click.argument("sequences", nargs=-1, required=True, type=click.IntRange(1, SEQUENCE_MAX), metavar="SEQUENCE...")
@url_option
@timeout_option(_TIMEOUT_MS)
@json_option
@click.pass_obj
def delete(context: CommandContext, channel: str, sequences: tuple[int, ...], url: str, timeout_ms: int, as_json: bool) -> int:
    """Finish messages of CHANNEL by their sequences, as far as nobody holds them: so a delayed one is cancelled.

    Ends with status 4 when none of them was there to be deleted.
    """
    wanted = sorted(set(sequences))
    count = context.run(url, timeout_ms, lambda client: client.queue(channel).delete(wanted))
    _say(channel, count, f"deleted of {len(wanted)}", as_json)
    if count:
        return Exit.DONE
    note("zmqbroker: none of them is there, or all are in flight")
    return Exit.NOTHING_THERE


@queue.command()
@click.argument("channel")
@click.option("--to", default="", metavar="CHANNEL", help="Move them there; back to where each came from unless given.")
@click.option("--origin", default="", metavar="CHANNEL", help="Only messages that came from this channel.")
@click.option(
    "--max", "count_max", type=click.IntRange(1, U64_MAX), help="Most messages to move, the oldest first; all unless given."
)
@url_option
@timeout_option(_TIMEOUT_MS)
@json_option
@click.pass_obj
def redrive(
    context: CommandContext,
    channel: str,
    to: str,
    origin: str,
    count_max: int | None,
    url: str,
    timeout_ms: int,
    as_json: bool,
) -> None:
    """Move messages that nobody holds out of CHANNEL, usually a dead-letter channel, back to where they came from.

    One that was sent to CHANNEL itself stays, unless --to says where it is to go.
    """
    count = context.run(url, timeout_ms, lambda client: client.queue(channel).redrive(to=to, origin=origin, max=count_max or 0))
    _say(channel, count, f"moved to {plain_text(to)}" if to else "moved back", as_json)
