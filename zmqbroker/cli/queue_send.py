"""`zmqbroker queue send`."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

import click

from zmqbroker.cli.options import CommandContext, json_option, timeout_option, together, url_option
from zmqbroker.cli.output import emit_json, emit_line
from zmqbroker.wire.batch import SEQUENCE_MAX
from zmqbroker.wire.columns import PRIORITY_MAX
from zmqbroker.wire.queue_requests import DELAY_MS_MAX
from zmqbroker.wire.send_requests import CONFIRMS, NO_CONFIRM, QUORUM

if TYPE_CHECKING:
    from zmqbroker.client import Confirm, Producer, SendResult

__all__ = ["read_tags", "send"]

#: Sends under way at once; the client's own window bounds what is on the wire.
_UNDER_WAY_MAX = 1_024
#: Messages that nobody confirms, until a node must have read them: fewer than the client lets wait.
_UNCONFIRMED_MAX = 500


@click.command()
@click.argument("channel")
@click.argument("bodies", nargs=-1)
@click.option("--stdin", "lines", is_flag=True, help="Send each line of standard input as one message.")
@click.option("--file", "path", type=click.File("rb"), help="Send the content of a file as one message; -: standard input.")
@click.option(
    "--delay-ms",
    type=click.IntRange(0, DELAY_MS_MAX),
    default=0,
    help="They can be received after so long; unless given, as the channel says.",
)
@click.option(
    "--expiry-ms",
    type=click.IntRange(0, DELAY_MS_MAX),
    default=0,
    help="They are dropped after so long; unless given, as the channel says.",
)
@click.option(
    "--priority",
    type=click.IntRange(0, PRIORITY_MAX),
    default=0,
    show_default=True,
    help="They come before those of a lower priority.",
)
@click.option("--group", default="", help="Of the messages of a group one at a time is received, in their order.")
@click.option("--compression", type=click.Choice(["zlib"]), help="Compress the bodies; receivers get them as they were.")
@click.option("--id", help="An id of your own, for a single message.")
@click.option(
    "--expected-sequence",
    type=click.IntRange(0, SEQUENCE_MAX),
    help="Send a single message only if this is the channel's last sequence; 0: it has had no message.",
)
@click.option(
    "--confirm",
    type=click.Choice(CONFIRMS),
    default=QUORUM,
    show_default=True,
    help="none: send each once, and do not ask what became of it.",
)
@click.option("--metadata", help="A text that goes with each.")
@click.option("--tag", "tags", multiple=True, metavar="KEY=VALUE", help="A tag of each; may be repeated.")
@url_option
@timeout_option(30_000)
@json_option
@click.pass_obj
def send(
    context: CommandContext,
    /,
    channel: str,
    bodies: tuple[str, ...],
    lines: bool,
    path: Any,
    tags: tuple[str, ...],
    url: str,
    timeout_ms: int,
    as_json: bool,
    expected_sequence: int | None,
    confirm: str,
    **attributes: Any,
) -> None:
    """Send messages to CHANNEL, one per BODY, and wait until each is confirmed."""
    if (bool(bodies), lines, path is not None).count(True) != 1:
        raise click.UsageError("give either bodies, --stdin or --file")
    for option, value in (("--id", attributes["id"]), ("--expected-sequence", expected_sequence)):
        if value is not None and (lines or len(bodies) > 1):
            raise click.UsageError(f"{option} is of one message, not of several")
    attributes["tags"] = read_tags(tags)
    settings = {"compression": attributes.pop("compression")}
    if lines:
        source = _standard_input()
    else:
        source = _given([path.read()] if path is not None else [body.encode("utf-8", "surrogateescape") for body in bodies])
    if expected_sequence is not None or confirm == NO_CONFIRM:
        attributes |= {"expected_sequence": expected_sequence, "confirm": confirm}
        asyncio.run(_send_singly(context, url, channel, source, attributes, timeout_ms, as_json))
    else:
        asyncio.run(_send(context, url, channel, source, settings, attributes, timeout_ms, as_json))


def read_tags(pairs: tuple[str, ...]) -> dict[str, str] | None:
    """The tags, None for none. Raises UsageError."""
    tags: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise click.UsageError(f"--tag {pair!r} is not KEY=VALUE")
        if key in tags:
            raise click.UsageError(f"--tag {key} is given twice")
        tags[key] = value
    return tags or None


async def _given(bodies: list[bytes]) -> AsyncIterator[bytes]:
    for body in bodies:
        yield body


async def _standard_input() -> AsyncIterator[bytes]:
    """Standard input by lines, without their ends.

    A thread reads, because a pipe may be silent for long while confirms come in; it is a daemon, because nothing can wake it
    when the command is interrupted.
    """
    loop, read_lines, room = asyncio.get_running_loop(), asyncio.Queue[bytes | None](), threading.Semaphore(_UNDER_WAY_MAX)

    standard_input = sys.stdin

    def read() -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the command has failed, and nobody wants more lines
            for line in standard_input.buffer:
                room.acquire()
                loop.call_soon_threadsafe(read_lines.put_nowait, line.removesuffix(b"\n").removesuffix(b"\r"))
            loop.call_soon_threadsafe(read_lines.put_nowait, None)

    threading.Thread(target=read, name="standard-input", daemon=True).start()
    while (line := await read_lines.get()) is not None:
        room.release()
        yield line


async def _send(
    context: CommandContext,
    url: str,
    channel: str,
    source: AsyncIterator[bytes],
    settings: dict[str, Any],
    attributes: dict[str, Any],
    timeout_ms: int,
    as_json: bool,
) -> None:
    """Send in order through one producer, and print each confirm as it comes, in the order of the messages."""
    confirms: asyncio.Queue[Confirm | None] = asyncio.Queue(_UNDER_WAY_MAX)

    async def produce(producer: Producer) -> None:
        async for body in source:
            await confirms.put(await producer.send(body, **attributes))
        await confirms.put(None)

    async def show() -> None:
        while (confirm := await confirms.get()) is not None:
            _show_sent(await confirm, channel, as_json)

    async with context.connect(url, timeout_ms) as client, client.queue(channel).producer(**settings) as producer:
        await together(produce(producer), show())


async def _send_singly(
    context: CommandContext,
    url: str,
    channel: str,
    source: AsyncIterator[bytes],
    attributes: dict[str, Any],
    timeout_ms: int,
    as_json: bool,
) -> None:
    """Send one after the other, and print what is confirmed; what is not was read by a node at the end."""
    async with context.connect(url, timeout_ms) as client:
        queue = client.queue(channel)
        send: Callable[..., Awaitable[SendResult | None]] = queue.send
        sent = 0
        async for body in source:
            _show_sent(await send(body, **attributes), channel, as_json)
            sent += 1
            if sent % _UNCONFIRMED_MAX == 0:
                await queue.wait_idle()
        await queue.wait_idle()


def _show_sent(result: SendResult | None, channel: str, as_json: bool) -> None:
    if result is None:
        if as_json:
            emit_json({"channel": channel, "confirm": NO_CONFIRM})
        else:
            emit_line(f"{channel}: message sent, without a confirm")
    elif as_json:
        emit_json(
            {
                "channel": channel,
                "sequence": result.sequence,
                "time_unix_ns": result.time_unix_ns,
                "duplicate": result.duplicate,
                "confirm": result.confirm,
                **({"duplicate_of": result.duplicate_of} if result.duplicate_of else {}),
            }
        )
    else:
        known = f", a duplicate of message {result.duplicate_of}" if result.duplicate_of else ""
        emit_line(f"{channel}: message {result.sequence} confirmed by {result.confirm}{known}")
