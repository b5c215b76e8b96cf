"""`zmqbroker store`: publish events to events stores, and see who reads them. Reading has a file of its own."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

import click

from zmqbroker.cli.exits import Exit
from zmqbroker.cli.options import CommandContext, json_option, timeout_option, url_option
from zmqbroker.cli.output import emit_json, emit_line, emit_table, note
from zmqbroker.cli.queue_send import read_tags
from zmqbroker.cli.readable import plain_text
from zmqbroker.cli.store_read import read, start_options, subscribe

if TYPE_CHECKING:
    from zmqbroker.client import Client, SendResult
    from zmqbroker.client.durable import Opened

__all__ = ["store"]

_TIMEOUT_MS = 30_000
#: Events under way at once; those of one go out in their order.
_UNDER_WAY_MAX = 1_024


@click.group()
def store() -> None:
    """Publish and read events, which stay until retention takes them.

    A store is the channel events_store:NAME: `zmqbroker channel` has its settings, and how long it keeps what.
    """


for command in (read, subscribe):
    store.add_command(command)


@store.command()
@click.argument("name")
@click.argument("bodies", nargs=-1)
@click.option("--stdin", "lines", is_flag=True, help="Publish each line of standard input as one event.")
@click.option("--key", default="", help="What they are about: in a store with keep_latest the newest event of a key stays.")
@click.option("--id", help="An id of your own, for a single event.")
@click.option("--metadata", help="Text that goes along.")
@click.option("--tag", "tags", multiple=True, metavar="KEY=VALUE", help="A tag of each; may be repeated.")
@url_option
@timeout_option(_TIMEOUT_MS)
@json_option
@click.pass_obj
def publish(
    context: CommandContext,
    /,
    name: str,
    bodies: tuple[str, ...],
    lines: bool,
    url: str,
    timeout_ms: int,
    as_json: bool,
    tags: tuple[str, ...],
    **options: Any,
) -> None:
    """Publish BODIES to the store NAME, in their order, and wait until a majority has them."""
    if lines == bool(bodies):
        raise click.UsageError("give either BODIES or --stdin")
    options["tags"], texts = read_tags(tags), [body.encode(errors="surrogateescape") for body in bodies]
    if lines:
        texts = [line.rstrip(b"\n") for line in sys.stdin.buffer]
    if options["id"] and len(texts) != 1:
        raise click.UsageError(f"--id is for a single event, there are {len(texts)}")

    async def send(client: Client) -> list[SendResult]:
        events, results = client.store(name), []
        for low in range(0, len(texts), _UNDER_WAY_MAX):
            sending = (events.publish(text, **options) for text in texts[low : low + _UNDER_WAY_MAX])
            results += await asyncio.gather(*sending)
        return results

    for result in context.run(url, timeout_ms, send):
        if as_json:
            emit_json({"store": name, **result._asdict()})
        else:
            emit_line(f"{plain_text(name)}: event {result.sequence} is stored ({result.confirm})")


@store.command()
@click.argument("name")
@url_option
@timeout_option(_TIMEOUT_MS)
@json_option
@click.pass_obj
def consumers(context: CommandContext, name: str, url: str, timeout_ms: int, as_json: bool) -> None:
    """List the durable consumers and groups of the store NAME, with how far they have come."""
    found = context.run(url, timeout_ms, lambda client: client.store(name).consumers())
    if as_json:
        emit_json([info._asdict() for info in found])
    elif found:
        rows = [(plain_text(info.name), *info[1:]) for info in found]
        emit_table(("consumer", "position", "unread", "in flight", "missed"), rows)
    else:
        note(f"zmqbroker: no durable consumers of {name}")


@store.command()
@click.argument("name")
@click.argument("consumer")
@start_options
@url_option
@timeout_option(_TIMEOUT_MS)
@json_option
@click.pass_obj
def reset(context: CommandContext, /, name: str, consumer: str, url: str, timeout_ms: int, as_json: bool, **start: Any) -> None:
    """Have a durable CONSUMER, or a group, of the store NAME go on from another place: the first event unless one is given.

    It reads again what it has acked behind that; what its readers hold is forgotten.
    """

    async def set_anew(client: Client) -> Opened:
        return await client.store(name).reset(consumer, **start)

    found = context.run(url, timeout_ms, set_anew)
    if as_json:
        emit_json({"store": name, "consumer": consumer, **found._asdict()})
    else:
        emit_line(f"{plain_text(consumer)}: goes on with event {found.position} of {found.first} to {found.last}")


@store.command()
@click.argument("name")
@click.argument("consumer")
@url_option
@timeout_option(_TIMEOUT_MS)
@json_option
@click.pass_obj
def delete_consumer(context: CommandContext, name: str, consumer: str, url: str, timeout_ms: int, as_json: bool) -> int:
    """Delete a durable CONSUMER, or a group, of the store NAME with its position; the events stay."""
    context.run(url, timeout_ms, lambda client: client.store(name).delete_consumer(consumer))
    if as_json:
        emit_json({"store": name, "consumer": consumer, "deleted": True})
    else:
        emit_line(f"{plain_text(consumer)}: deleted")
    return Exit.DONE
