"""`zmqbroker route`: sends to several destinations, and names for lists of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from zmqbroker.cli.exits import Exit, exit_status
from zmqbroker.cli.options import CommandContext, json_option, timeout_option, url_option
from zmqbroker.cli.output import emit_json, emit_line
from zmqbroker.cli.queue_send import read_tags
from zmqbroker.cli.readable import plain_text
from zmqbroker.cli.rules import all_of, searched, show_rules, tell_rule

if TYPE_CHECKING:
    from zmqbroker.client import DestinationResult

__all__ = ["route"]

_TIMEOUT_MS = 30_000


@click.group()
def route() -> None:
    """Send to several destinations at once, and name such lists."""


@route.command(name="set")
@click.argument("name")
@click.argument("destinations")
@url_option
@timeout_option(_TIMEOUT_MS)
@json_option
@click.pass_obj
def set_route(context: CommandContext, /, name: str, destinations: str, url: str, timeout_ms: int, as_json: bool) -> None:
    """Have the route NAME stand for DESTINATIONS, a list like "orders;events:orders.new;events_store:orders"."""
    changed = context.run(url, timeout_ms, lambda client: client.routes.set(name, destinations))
    tell_rule(as_json, {"route": name, "changed": changed}, name, "set" if changed else "it stands for that already")


@route.command(name="delete")
@click.argument("name")
@url_option
@timeout_option(_TIMEOUT_MS)
@json_option
@click.pass_obj
def delete_route(context: CommandContext, /, name: str, url: str, timeout_ms: int, as_json: bool) -> None:
    """Delete the route NAME."""
    context.run(url, timeout_ms, lambda client: client.routes.delete(name))
    tell_rule(as_json, {"route": name, "deleted": True}, name, "deleted")


@route.command(name="list")
@click.option("--search", default="", metavar="TEXT", help="Only routes with this text in their names.")
@url_option
@timeout_option(_TIMEOUT_MS)
@json_option
@click.pass_obj
def list_routes(context: CommandContext, /, search: str, url: str, timeout_ms: int, as_json: bool) -> None:
    """List all routes."""
    found = context.run(url, timeout_ms, all_of(lambda client: client.routes.list(search)))
    show_rules(as_json, found, {"route": "name", "destinations": "destinations"}, f"no routes{searched(search)}")


@route.command(name="send")
@click.argument("destinations")
@click.argument("body")
@click.option("--id", help="An id of your own.")
@click.option("--metadata", help="A text that goes with it.")
@click.option("--tag", "tags", multiple=True, metavar="KEY=VALUE", help="A tag; may be repeated.")
@url_option
@timeout_option(_TIMEOUT_MS)
@json_option
@click.pass_obj
def send(
    context: CommandContext,
    /,
    destinations: str,
    body: str,
    url: str,
    timeout_ms: int,
    as_json: bool,
    tags: tuple[str, ...],
    **options: Any,
) -> Exit:
    """Send BODY to DESTINATIONS, and say what became of it at each.

    Destinations are separated by ";": queues by their names, events:NAME, events_store:NAME, routes:NAME. All queues and stores
    take it, or none does.
    """
    data, options["tags"] = body.encode(errors="surrogateescape"), read_tags(tags)
    results = context.run(url, timeout_ms, lambda client: client.send(destinations, data, **options))
    if as_json:
        emit_json([_fields(result) for result in results])
    else:
        for result in results:
            emit_line(f"{plain_text(result.destination)}: {_outcome(result)}")
    refused = next((result.error for result in results if result.error is not None), None)
    return Exit.DONE if refused is None else exit_status(refused)


def _fields(result: DestinationResult) -> dict[str, Any]:
    if result.error is not None:
        return {"destination": result.destination, "code": result.error.code, "message": result.error.message}
    if result.subscribers is not None:
        return {"destination": result.destination, "subscribers": result.subscribers, "duplicate": result.duplicate}
    stored = {"sequence": result.sequence, "time_unix_ns": result.time_unix_ns}
    return {"destination": result.destination, **stored, "duplicate": result.duplicate}


def _outcome(result: DestinationResult) -> str:
    if result.error is not None:
        return plain_text(str(result.error))
    if result.subscribers is not None:
        return f"published, {result.subscribers} subscriber{'' if result.subscribers == 1 else 's'} known"
    return f"sequence {result.sequence}"
