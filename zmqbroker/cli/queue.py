"""`zmqbroker queue`: send to, receive from and look at one queue."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import click

from zmqbroker.cli.exits import Exit
from zmqbroker.cli.options import CommandContext, json_option, timeout_option, together, url_option
from zmqbroker.cli.output import body_fields, body_text, emit_json, emit_line, emit_table, note

if TYPE_CHECKING:
    from zmqbroker.client import Confirm, Message, Producer, SendResult

__all__ = ["queue"]

#: Sends under way at once; the client's own window bounds what is on the wire.
_UNDER_WAY_MAX = 1_024


@click.group()
def queue() -> None:
    """Send to, receive from and look at queues."""


@queue.command()
@click.argument("channel")
@click.argument("bodies", nargs=-1)
@click.option("--stdin", "lines", is_flag=True, help="Send each line of standard input as one message.")
@click.option("--file", "path", type=click.File("rb"), help="Send the content of a file as one message.")
@url_option
@timeout_option(30_000)
@json_option
@click.pass_obj
def send(
    context: CommandContext,
    channel: str,
    bodies: tuple[str, ...],
    lines: bool,
    path: Any,
    url: str,
    timeout_ms: int,
    as_json: bool,
) -> None:
    """Send messages to CHANNEL, one per BODY, and wait until each is confirmed."""
    if (bool(bodies), lines, path is not None).count(True) != 1:
        raise click.UsageError("give either bodies, --stdin or --file")
    if lines:
        source = _standard_input()
    else:
        source = _given([path.read()] if path is not None else [body.encode("utf-8", "surrogateescape") for body in bodies])
    asyncio.run(_send(context, url, channel, source, timeout_ms, as_json))


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
    context: CommandContext, url: str, channel: str, source: AsyncIterator[bytes], timeout_ms: int, as_json: bool
) -> None:
    """Send in order through one producer, and print each confirm as it comes, in the order of the messages."""
    confirms: asyncio.Queue[Confirm | None] = asyncio.Queue(_UNDER_WAY_MAX)

    async def produce(producer: Producer) -> None:
        async for body in source:
            await confirms.put(await producer.send(body))
        await confirms.put(None)

    async def show() -> None:
        while (confirm := await confirms.get()) is not None:
            _show_sent(await confirm, channel, as_json)

    async with context.connect(url, timeout_ms) as client, client.queue(channel).producer() as producer:
        await together(produce(producer), show())


def _show_sent(result: SendResult, channel: str, as_json: bool) -> None:
    if as_json:
        emit_json(
            {
                "channel": channel,
                "sequence": result.sequence,
                "time_unix_ns": result.time_unix_ns,
                "duplicate": result.duplicate,
                "confirm": result.confirm,
            }
        )
    else:
        emit_line(f"{channel}: message {result.sequence} confirmed by {result.confirm}")


@queue.command()
@click.argument("channel")
@click.option("--max", "count_max", type=click.IntRange(1, 65_535), default=1, show_default=True, help="Most messages to take.")
@click.option("--wait-ms", type=click.IntRange(0, 60_000), default=0, show_default=True, help="How long to wait for a message.")
@click.option(
    "--visibility-ms",
    type=click.IntRange(100, 43_200_000),
    default=30_000,
    show_default=True,
    help="How long messages that are not acked stay hidden from others.",
)
@click.option("--ack/--no-ack", default=True, show_default=True, help="Whether to finish the messages for good.")
@url_option
@json_option
@click.pass_obj
def receive(
    context: CommandContext,
    channel: str,
    count_max: int,
    wait_ms: int,
    visibility_ms: int,
    ack: bool,
    url: str,
    as_json: bool,
) -> int:
    """Receive messages from CHANNEL and print them; ends with status 4 when there are none.

    Messages are printed before they are acked, so that none is lost on the way. With --no-ack they are ready again as soon as
    this command ends.
    """
    count = asyncio.run(_receive(context, url, channel, count_max, wait_ms, visibility_ms, ack, as_json))
    if count:
        return Exit.DONE
    note(f"zmqbroker: nothing there in {channel}")
    return Exit.NOTHING_THERE


async def _receive(
    context: CommandContext,
    url: str,
    channel: str,
    count_max: int,
    wait_ms: int,
    visibility_ms: int,
    ack: bool,
    as_json: bool,
) -> int:
    async with context.connect(url) as client:
        source = client.queue(channel)
        messages = await source.receive(max=count_max, wait_ms=wait_ms, visibility_ms=visibility_ms)
        if messages:
            _show_messages(messages, as_json)
            sys.stdout.flush()
        if messages and ack:
            await source.ack(messages)
    return len(messages)


def _show_messages(messages: list[Message], as_json: bool) -> None:
    if not as_json:
        emit_table(
            ("sequence", "delivery", "body"),
            [(message.sequence, message.delivery_count, body_text(message.body)) for message in messages],
        )
        return
    for message in messages:
        emit_json(
            {
                "channel": message.channel,
                "sequence": message.sequence,
                "delivery_count": message.delivery_count,
                "time_unix_ns": message.time_unix_ns,
                "id": message.id,
                "metadata": message.metadata,
                "tags": message.tags,
                **body_fields(message.body),
            }
        )


@queue.command()
@click.argument("channel")
@url_option
@timeout_option(5_000)
@json_option
@click.pass_obj
def stats(context: CommandContext, channel: str, url: str, timeout_ms: int, as_json: bool) -> None:
    """Show the counters of CHANNEL as the node that was asked has applied them."""
    fields = asyncio.run(_stats(context, url, channel, timeout_ms))
    if as_json:
        emit_json(fields)
    else:
        emit_table(tuple(fields), [tuple(fields.values())])


async def _stats(context: CommandContext, url: str, channel: str, timeout_ms: int) -> dict[str, Any]:
    async with context.connect(url, timeout_ms) as client:
        return await client.queue(channel).stats()
