"""`zmqbroker events`: publish to whoever listens, and listen."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

import click

from zmqbroker.cli.exits import Exit
from zmqbroker.cli.options import CommandContext, json_option, timeout_option, url_option
from zmqbroker.cli.output import body_fields, body_text, emit_json, emit_line, note
from zmqbroker.cli.queue_send import read_tags
from zmqbroker.cli.readable import plain_text
from zmqbroker.errors import UnreadableBody
from zmqbroker.wire.realtime_requests import CREDIT_DEFAULT, CREDIT_MAX

if TYPE_CHECKING:
    from zmqbroker.client import Client, Event, EventsSubscription

__all__ = ["events"]


@click.group()
def events() -> None:
    """Publish to whoever listens at this moment, and listen: at most once, and nothing is stored."""


@events.command()
@click.argument("name")
@click.argument("bodies", nargs=-1, required=True, metavar="BODY...")
@click.option("--id", help="An id of your own, for a single event.")
@click.option("--metadata", help="A text that goes with each.")
@click.option("--tag", "tags", multiple=True, metavar="KEY=VALUE", help="A tag of each; may be repeated.")
@url_option
@timeout_option(30_000)
@json_option
@click.pass_obj
def publish(
    context: CommandContext,
    name: str,
    bodies: tuple[str, ...],
    id: str | None,
    metadata: str | None,
    tags: tuple[str, ...],
    url: str,
    timeout_ms: int,
    as_json: bool,
) -> None:
    """Publish events under NAME, one per BODY, and tell how many subscribers are known to want them."""
    if id is not None and len(bodies) > 1:
        raise click.UsageError("--id is of one event, not of several")
    read, given = read_tags(tags), [body.encode("utf-8", "surrogateescape") for body in bodies]

    async def send(client: Client) -> dict[str, Any]:
        source = client.events(name)
        done = await asyncio.gather(
            *(source.publish(body, id=id, metadata=metadata, tags=read, confirm=True) for body in given)
        )
        result = done[0]
        assert result is not None
        return {"name": name, "count": len(given), "nodes": result.nodes, "subscribers": result.subscribers}

    told = context.run(url, timeout_ms, send)
    if as_json:
        emit_json(told)
        return
    count, nodes, subscribers = told["count"], told["nodes"], told["subscribers"]
    emit_line(
        f"{plain_text(name)}: {count} {'event' if count == 1 else 'events'} to {subscribers} "
        f"{'subscriber' if subscribers == 1 else 'subscribers'} on {nodes} {'node' if nodes == 1 else 'nodes'}"
    )


@events.command()
@click.argument("pattern")
@click.option("--group", default="", help="Share what comes with all others of this group.")
@click.option("--count", type=click.IntRange(1), help="End after so many events.")
@click.option("--wait-ms", type=click.IntRange(1, 3_600_000), help="End when nothing came for so long; never unless given.")
@click.option(
    "--credit",
    type=click.IntRange(1, CREDIT_MAX),
    default=CREDIT_DEFAULT,
    show_default=True,
    help="Most events that wait here; what comes beyond is missed, and counted.",
)
@url_option
@timeout_option(30_000)
@json_option
@click.pass_obj
def subscribe(
    context: CommandContext,
    pattern: str,
    group: str,
    count: int | None,
    wait_ms: int | None,
    credit: int,
    url: str,
    timeout_ms: int,
    as_json: bool,
) -> int:
    """Print events as they come, from now on, whose names match PATTERN: * stands for one token, a last > for one or more.

    Quote the pattern. Ends after --count, when nothing comes for --wait-ms, or with Ctrl-C; with status 4 when nothing came.
    """

    async def listen(client: Client) -> int:
        async with client.events(pattern).subscribe(group=group, credit=credit) as subscription:
            note(f"zmqbroker: subscribed to {plain_text(pattern)}")
            shown = await _show(subscription, count, wait_ms, as_json)
            if subscription.missed:
                note(f"zmqbroker: {subscription.missed} events were missed: they came too fast")
            return shown

    return Exit.DONE if context.run(url, timeout_ms, listen) else Exit.NOTHING_THERE


async def _show(subscription: EventsSubscription, count: int | None, wait_ms: int | None, as_json: bool) -> int:
    """Print events until it is time to end; how many there were."""
    shown = 0
    while count is None or shown < count:
        try:
            async with asyncio.timeout(wait_ms / 1000 if wait_ms is not None else None):
                event = await anext(subscription)
        except TimeoutError:
            break
        shown += 1
        if as_json:
            emit_json(_fields(event))
        else:
            emit_line(f"{plain_text(event.channel)}  {body_text(_body(event))}")
        sys.stdout.flush()
    return shown


def _fields(event: Event) -> dict[str, Any]:
    return {
        "name": event.channel,
        "time_unix_ns": event.time_unix_ns,
        "id": event.id,
        "client_id": event.client_id,
        "metadata": event.metadata,
        "tags": dict(event.tags),
        **body_fields(_body(event)),
    }


def _body(event: Event) -> bytes:
    """The body; as it was published where it cannot be decompressed, which is said."""
    try:
        return event.body
    except UnreadableBody as error:
        note(f"zmqbroker: {error}; it is shown as it was published")
        return event.raw_body
