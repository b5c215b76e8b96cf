"""`zmqbroker binding`: queues that are fed with what is published elsewhere."""

from __future__ import annotations

import click

from zmqbroker.cli.exits import Exit
from zmqbroker.cli.options import CommandContext, json_option, timeout_option, url_option
from zmqbroker.cli.rules import all_of, searched, show_rules, tell_rule

__all__ = ["binding"]

_TIMEOUT_MS = 30_000


@click.group()
def binding() -> None:
    """Feed queues with what is published to events or events stores."""


@binding.command(name="set")
@click.argument("source")
@click.argument("queues")
@url_option
@timeout_option(_TIMEOUT_MS)
@json_option
@click.pass_obj
def set_binding(context: CommandContext, /, source: str, queues: str, url: str, timeout_ms: int, as_json: bool) -> None:
    """Feed QUEUES, a list with ";" between, with what is published where SOURCE fits.

    SOURCE is events: or events_store: and a name, whose tokens between dots may be *, and the last one >.
    """
    changed = context.run(url, timeout_ms, lambda client: client.bindings.set(source, queues))
    tell_rule(as_json, {"binding": source, "changed": changed}, source, "set" if changed else "it feeds them already")


@binding.command(name="delete")
@click.argument("source")
@url_option
@timeout_option(_TIMEOUT_MS)
@json_option
@click.pass_obj
def delete_binding(context: CommandContext, /, source: str, url: str, timeout_ms: int, as_json: bool) -> Exit:
    """Feed no queue from SOURCE any more; what is in the queues stays."""
    changed = context.run(url, timeout_ms, lambda client: client.bindings.delete(source))
    tell_rule(as_json, {"binding": source, "deleted": changed}, source, "deleted" if changed else "there is no such binding")
    return Exit.DONE if changed else Exit.NOTHING_THERE


@binding.command(name="list")
@click.option("--search", default="", metavar="TEXT", help="Only bindings with this text in their sources.")
@url_option
@timeout_option(_TIMEOUT_MS)
@json_option
@click.pass_obj
def list_bindings(context: CommandContext, /, search: str, url: str, timeout_ms: int, as_json: bool) -> None:
    """List all bindings, with how many messages their queues did not take."""
    found = context.run(url, timeout_ms, all_of(lambda client: client.bindings.list(search)))
    columns = {"source": "source", "queues": "queues", "left out": "left_out"}
    show_rules(as_json, found, columns, f"no bindings{searched(search)}")
