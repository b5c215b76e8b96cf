"""`zmqbroker channel`: create, change, delete, list and describe channels."""

from __future__ import annotations

import sys
from functools import partial

import click

from zmqbroker.cli.channel_tables import exact, list_channels, show_channels, show_counters, show_settings
from zmqbroker.cli.defaults import defaults
from zmqbroker.cli.options import CommandContext, json_option, timeout_option, url_option
from zmqbroker.cli.output import emit_json, emit_line, note
from zmqbroker.cli.readable import plain_text
from zmqbroker.cli.settings import channel_faults, full_settings, parse_settings, set_option
from zmqbroker.errors import ConfigError

__all__ = ["channel"]

_TIMEOUT_MS = 30_000


@click.group()
def channel() -> None:
    """Create, change, delete, list and describe channels."""


channel.add_command(defaults)


@channel.command()
@click.argument("name")
@set_option
@url_option
@timeout_option(_TIMEOUT_MS)
@json_option
@click.pass_obj
def create(context: CommandContext, name: str, pairs: tuple[str, ...], url: str, timeout_ms: int, as_json: bool) -> None:
    """Create the channel NAME with these settings.

    One that is there with the same settings is fine; with others the command is refused and names what differs.
    """
    settings = parse_settings(pairs)
    if faults := channel_faults(name, settings):
        raise ConfigError(tuple(faults))
    created = context.run(url, timeout_ms, lambda client: client.channels.create(name, **settings))
    if as_json:
        emit_json({"channel": name, "created": created, "settings": full_settings(settings)})
    else:
        emit_line(f"{plain_text(name)}: {'created' if created else 'it is there already, with these settings'}")


@channel.command()
@click.argument("name")
@set_option
@url_option
@timeout_option(_TIMEOUT_MS)
@json_option
@click.pass_obj
def update(context: CommandContext, name: str, pairs: tuple[str, ...], url: str, timeout_ms: int, as_json: bool) -> None:
    """Change these settings of the channel NAME and keep the others; 0, or nothing behind the =, takes a rule away."""
    if not pairs:
        raise click.UsageError("say what to change, with --set KEY=VALUE")
    settings = parse_settings(pairs)
    changed = context.run(url, timeout_ms, lambda client: client.channels.update(name, **settings))
    if as_json:
        emit_json({"channel": name, "changed": changed})
    else:
        emit_line(f"{plain_text(name)}: {'changed' if changed else 'it was so already'}")


@channel.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask; without a terminal there is nobody to ask.")
@url_option
@timeout_option(_TIMEOUT_MS)
@json_option
@click.pass_obj
def delete(context: CommandContext, name: str, yes: bool, url: str, timeout_ms: int, as_json: bool) -> None:
    """Delete the channel NAME with all messages that are in it, those in flight too."""
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("there is no terminal to ask at: give --yes to delete the channel with its messages")
        depth = context.run(url, timeout_ms, lambda client: client.channels.describe(name))["depth"]
        click.confirm(f"Delete {plain_text(name)} with its {depth} messages?", abort=True, err=True)
    context.run(url, timeout_ms, lambda client: client.channels.delete(name))
    if as_json:
        emit_json({"channel": name, "deleted": True})
    else:
        emit_line(f"{plain_text(name)}: deleted")


@channel.command(name="list")
@click.option("--search", default="", metavar="TEXT", help="Only channels with this text in their names.")
@url_option
@timeout_option(_TIMEOUT_MS)
@json_option
@click.pass_obj
def list_(context: CommandContext, search: str, url: str, timeout_ms: int, as_json: bool) -> None:
    """List all channels with what is in them."""

    found = context.run(url, timeout_ms, partial(list_channels, search))
    if as_json:
        emit_json([exact(row) for row in found])
    elif found:
        show_channels(found)
    else:
        note("zmqbroker: no channels" + (f" with {search!r} in their names" if search else ""))


@channel.command()
@click.argument("name")
@url_option
@timeout_option(_TIMEOUT_MS)
@json_option
@click.pass_obj
def describe(context: CommandContext, name: str, url: str, timeout_ms: int, as_json: bool) -> None:
    """Show counters and settings of the channel NAME; a setting that is "-" is no rule."""
    fields = context.run(url, timeout_ms, lambda client: client.channels.describe(name))
    if as_json:
        emit_json(exact(fields))
        return
    show_counters(fields)
    emit_line("")
    show_settings(fields)
