"""`zmqbroker store read` and `subscribe`, and how events are shown."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

from zmqbroker.cli.exits import Exit
from zmqbroker.cli.options import CommandContext, json_option, timeout_option, url_option
from zmqbroker.cli.output import body_fields, body_text, emit_json, emit_line, emit_table, note
from zmqbroker.cli.readable import instant, instant_text, plain_text
from zmqbroker.errors import UnreadableBody
from zmqbroker.wire.batch import COUNT_MAX, SEQUENCE_MAX
from zmqbroker.wire.queue_requests import DELAY_MS_MAX
from zmqbroker.wire.store_requests import READ_WAIT_MS_MAX

if TYPE_CHECKING:
    from zmqbroker.client import Client, Gap
    from zmqbroker.client.message import Content

__all__ = ["read", "start_options", "subscribe"]

_Function = TypeVar("_Function", bound=Callable[..., Any])


def start_options(function: _Function) -> _Function:
    """Add the ways to say where reading begins; one of them may be given."""
    options = (
        click.option("--start", type=click.Choice(("new", "first", "last")), help="Begin there."),
        click.option("--sequence", type=click.IntRange(1, SEQUENCE_MAX), help="Begin with the event of that sequence."),
        click.option("--time", "time_unix_ns", type=instant, help="Begin with the first event stored at 2026-01-31T12:00:00Z."),
        click.option(
            "--time-delta-ms", type=click.IntRange(0, DELAY_MS_MAX), help="Begin with the first event of so long before now."
        ),
    )
    for option in reversed(options):
        function = option(function)
    return function


@click.command()
@click.argument("name")
@click.option(
    "--max", "count_max", type=click.IntRange(1, COUNT_MAX), default=1, show_default=True, help="Most events to show."
)
@start_options
@click.option(
    "--wait-ms",
    type=click.IntRange(0, READ_WAIT_MS_MAX),
    default=0,
    show_default=True,
    help="How long to wait for one when there is none.",
)
@click.option("--key", help="Only the newest event of this key, of a store with keep_latest.")
@url_option
@timeout_option(30_000)
@json_option
@click.pass_obj
def read(
    context: CommandContext,
    /,
    name: str,
    count_max: int,
    wait_ms: int,
    key: str | None,
    url: str,
    timeout_ms: int,
    as_json: bool,
    **start: Any,
) -> int:
    """Show events of the store NAME: the oldest ones unless told where to begin. Ends with status 4 when there are none."""
    if key is not None and any(value is not None for value in start.values()):
        raise click.UsageError("--key shows the newest event: where to begin is not to be given")

    async def find(client: Client) -> list[Content]:
        events = client.store(name)
        if key is not None:
            last = await events.last(key=key)
            return [last] if last is not None else []
        return list(await events.read(count_max, wait_ms=wait_ms, **start))

    found = context.run(url, timeout_ms, find)
    if as_json:
        for event in found:
            emit_json(_fields(event))
    elif found:
        _show_table(found)
    if not found:
        note(f"zmqbroker: nothing there in {name}")
    return Exit.DONE if found else Exit.NOTHING_THERE


@click.command()
@click.argument("name")
@start_options
@click.option("--consumer", default="", help="Read as this durable consumer, alone: the broker keeps the position.")
@click.option("--group", default="", help="Read as a member of this group, which shares a position.")
@click.option("--rate-limit", type=click.IntRange(1), help="At most so many events a second while there are older ones.")
@click.option("--max", "count_max", type=click.IntRange(1), help="End after so many events; unless given, go on.")
@url_option
@timeout_option(30_000)
@json_option
@click.pass_obj
def subscribe(
    context: CommandContext,
    /,
    name: str,
    count_max: int | None,
    url: str,
    timeout_ms: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Print events of the store NAME as they come, those to come unless told where to begin.

    A durable consumer or a group acks an event when it was printed. Events that retention took first are told as a note.
    """
    if options["consumer"] and options["group"]:
        raise click.UsageError("give either --consumer or --group")
    if not options["consumer"] and not options["group"]:
        options["on_gap"] = _note_gap

    async def follow(client: Client) -> None:
        count = 0
        async with client.store(name).subscribe(**options) as events:
            async for event in events:
                emit_json(_fields(event)) if as_json else emit_line(_line(event))
                sys.stdout.flush()
                count += 1
                if options["consumer"] or options["group"]:
                    await event.ack()
                if count == count_max:
                    return

    if options["consumer"] or options["group"]:
        options["ack"] = "explicit"
    context.run(url, timeout_ms, follow)


def _note_gap(gap: Gap) -> None:
    note(f"zmqbroker: events {gap.missed} to {gap.first - 1} are no longer kept")


def _fields(event: Content) -> Mapping[str, Any]:
    return {
        "channel": event.channel,
        "sequence": event.sequence,
        "time_unix_ns": event.time_unix_ns,
        "key": event.key,
        "id": event.id,
        "metadata": event.metadata,
        "tags": event.tags,
        **body_fields(_body(event)),
    }


def _line(event: Content) -> str:
    about = [instant_text(event.time_unix_ns), str(event.sequence), *([plain_text(event.key)] if event.key else [])]
    return f"{'  '.join(about)}  {body_text(_body(event))}"


def _show_table(events: list[Content]) -> None:
    """Print events; what none of them has gets no column."""
    optional: list[tuple[str, Callable[[Content], str]]] = [
        ("key", lambda event: plain_text(event.key)),
        ("id", lambda event: plain_text(event.id)),
        ("metadata", lambda event: plain_text(event.metadata or "")),
        ("tags", lambda event: plain_text(", ".join(f"{key}={value}" for key, value in event.tags.items()))),
    ]
    columns: list[tuple[str, Callable[[Content], Any]]] = [
        ("sequence", lambda event: event.sequence),
        ("stored (UTC)", lambda event: instant_text(event.time_unix_ns)),
        *((title, value) for title, value in optional if any(map(value, events))),
        ("body", lambda event: body_text(_body(event))),
    ]
    rows = [[value(event) for _, value in columns] for event in events]
    emit_table([title for title, _ in columns], rows, unbroken=("stored (UTC)",))


def _body(event: Content) -> bytes:
    """The body; as it was stored where it cannot be decompressed, which is said."""
    try:
        return event.body
    except UnreadableBody as error:
        note(f"zmqbroker: {error}; it is shown as it was stored")
        return event.raw_body
