"""`zmqbroker queue receive` and `peek`, and how messages are shown."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from zmqbroker.cli.exits import Exit
from zmqbroker.cli.options import CommandContext, json_option, timeout_option, url_option
from zmqbroker.cli.output import body_fields, body_text, emit_json, emit_table, note
from zmqbroker.cli.readable import instant, instant_text, plain_text
from zmqbroker.errors import UnreadableBody
from zmqbroker.wire.batch import COUNT_MAX, SEQUENCE_MAX

if TYPE_CHECKING:
    from zmqbroker.client import Client, Queue
    from zmqbroker.client.message import Content, Origin

__all__ = ["peek", "receive"]


@click.command()
@click.argument("channel")
@click.option(
    "--max", "count_max", type=click.IntRange(1, COUNT_MAX), default=1, show_default=True, help="Most messages to take."
)
@click.option(
    "--wait-ms", type=click.IntRange(0, 3_600_000), default=0, show_default=True, help="How long to wait for a message."
)
@click.option(
    "--visibility-ms",
    type=click.IntRange(100, 43_200_000),
    default=30_000,
    show_default=True,
    help="How long messages that are not acked stay hidden from others.",
)
@click.option("--ack/--no-ack", default=True, show_default=True, help="Whether to finish the messages for good.")
@url_option
@timeout_option(30_000)
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
    timeout_ms: int,
    as_json: bool,
) -> int:
    """Receive messages from CHANNEL and print them; ends with status 4 when there are none.

    Messages are printed before they are acked, so that none is lost on the way. With --no-ack they are ready again as soon as
    this command ends.
    """

    async def take(client: Client) -> int:
        source = client.queue(channel)
        messages = await source.receive(max=count_max, wait_ms=wait_ms, visibility_ms=visibility_ms)
        if not messages:
            return 0
        if as_json:
            _show_lines(messages)
        else:
            _show_table(messages)
        sys.stdout.flush()
        if ack:
            await source.ack(messages)
        return len(messages)

    return _ended(channel, context.run(url, timeout_ms, take))


@click.command()
@click.argument("channel")
@click.option(
    "--max", "count_max", type=click.IntRange(1, COUNT_MAX), default=1, show_default=True, help="Most messages to show."
)
@click.option(
    "--first", type=click.IntRange(1, SEQUENCE_MAX), default=1, show_default=True, help="Only messages from this sequence on."
)
@click.option("--since", type=instant, help="Only messages stored at 2026-01-31T12:00:00Z, for instance, or later.")
@url_option
@timeout_option(30_000)
@json_option
@click.pass_obj
def peek(
    context: CommandContext,
    channel: str,
    count_max: int,
    first: int,
    since: int | None,
    url: str,
    timeout_ms: int,
    as_json: bool,
) -> int:
    """Show messages of CHANNEL without touching them, in whatever state they are.

    Ends with status 4 when there are none. `deliveries` is how often each was delivered so far.
    """
    found: list[Content] = []  # a table has to know all its rows; lines of JSON do not wait for each other
    count = 0

    async def look(client: Client) -> None:
        nonlocal count
        async for page in _pages(client.queue(channel), count_max, first, since or 0):
            count += len(page)
            if as_json:
                _show_lines(page, stored=True)
            else:
                found.extend(page)

    context.run(url, timeout_ms, look)
    if found:
        _show_table(found, stored=True)
    return _ended(channel, count)


async def _pages(source: Queue, count_max: int, first: int, since_unix_ns: int) -> AsyncIterator[Sequence[Content]]:
    """The messages as they come: one answer holds no more than its bytes allow."""
    left = count_max
    while left > 0 and (page := await source.peek(left, first=first, since_unix_ns=since_unix_ns)):
        yield page
        left -= len(page)
        first = page[-1].sequence + 1


def _ended(channel: str, count: int) -> Exit:
    if count:
        return Exit.DONE
    note(f"zmqbroker: nothing there in {channel}")
    return Exit.NOTHING_THERE


def _show_lines(messages: Sequence[Content], *, stored: bool = False) -> None:
    for message in messages:
        emit_json(
            {
                "channel": message.channel,
                "sequence": message.sequence,
                "delivery_count": message.delivery_count,
                "time_unix_ns": message.time_unix_ns,
                "id": message.id,
                "group": message.group,
                "metadata": message.metadata,
                "tags": message.tags,
                "origin": message.origin._asdict() if message.origin is not None else None,
                **({"state": message.state, "due_unix_ns": message.due_unix_ns} if stored else {}),
                **body_fields(_body(message)),
            }
        )


def _show_table(messages: Sequence[Content], *, stored: bool = False) -> None:
    """Print messages; what none of them has gets no column."""
    columns: list[tuple[str, Callable[[Content], Any]]] = [
        ("sequence", lambda message: message.sequence),
        ("delivery" if not stored else "deliveries", lambda message: message.delivery_count),
    ]
    if stored:
        columns.append(("stored (UTC)", lambda message: instant_text(message.time_unix_ns)))
        columns.append(("state", _state_text))
    optional: list[tuple[str, Callable[[Content], str]]] = [
        ("id", lambda message: plain_text(message.id)),
        ("group", lambda message: plain_text(message.group)),
        ("metadata", lambda message: plain_text(message.metadata or "")),
        ("tags", lambda message: plain_text(", ".join(f"{key}={value}" for key, value in message.tags.items()))),
        ("origin", lambda message: _origin_text(message.origin)),
    ]
    columns += [(name, value) for name, value in optional if any(map(value, messages))]
    columns.append(("body", lambda message: body_text(_body(message))))
    emit_table(
        [name for name, _ in columns],
        [[value(message) for _, value in columns] for message in messages],
        unbroken=("stored (UTC)",),
    )


def _state_text(message: Content) -> str:
    due = f" until {instant_text(message.due_unix_ns)}" if message.due_unix_ns else ""
    return plain_text(message.state) + due


def _body(message: Content) -> bytes:
    """The body; as it was stored where it cannot be decompressed, which is said."""
    try:
        return message.body
    except UnreadableBody as error:
        note(f"zmqbroker: {error}; it is shown as it was stored")
        return message.raw_body


def _origin_text(origin: Origin | None) -> str:
    return plain_text(f"{origin.channel} {origin.sequence}: {origin.reason}") if origin is not None else ""
