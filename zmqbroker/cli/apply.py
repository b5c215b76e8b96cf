"""`zmqbroker apply` and `zmqbroker export`: channels as a file declares them, and the file of those that there are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from zmqbroker.cli.channel_file import Declared, Defaults, read_file, usual_settings, written_file
from zmqbroker.cli.channel_tables import list_channels
from zmqbroker.cli.defaults import default_text
from zmqbroker.cli.options import CommandContext, json_option, timeout_option, url_option
from zmqbroker.cli.output import emit_json, emit_line
from zmqbroker.cli.readable import plain_text
from zmqbroker.cli.routing_file import AppliedRule, apply_rules, rules_there, written_rules
from zmqbroker.cli.settings import DEFAULTS, Settings, full_settings
from zmqbroker.commands import is_consumer
from zmqbroker.errors import ChannelNotFound

if TYPE_CHECKING:
    from zmqbroker.client import Client
    from zmqbroker.client.channels import Channels

__all__ = ["apply", "export"]

_TIMEOUT_MS = 30_000


@dataclass(frozen=True)
class _Applied:
    """What was done with one channel, or would be."""

    channel: str
    action: str  # created | updated | unchanged
    changes: dict[str, dict[str, Any]] = field(default_factory=dict)  # by setting, what it was (`from`) and is (`to`)


@dataclass(frozen=True)
class _AppliedDefaults:
    """The same with the defaults of one pattern."""

    pattern: str
    action: str  # set | unchanged
    settings: Settings = field(default_factory=dict)


_Done = _Applied | _AppliedDefaults | AppliedRule


@click.command()
@click.argument("file", type=click.File("rb"))
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@url_option
@timeout_option(_TIMEOUT_MS)
@json_option
@click.pass_obj
def apply(context: CommandContext, file: BinaryIO, dry_run: bool, url: str, timeout_ms: int, as_json: bool) -> None:
    """Make defaults, channels, routes and bindings what FILE declares (-: standard input). Nothing is ever deleted.

    FILE is TOML with tables [defaults."PATTERN"] of settings for channels yet to be made, and [channels."NAME"] of settings for
    one; a setting that this does not name gets its default. In tables [routes] and [bindings] lists of destinations stand by
    name, or by source. It is checked as a whole before anything is done. What was done
    before a failure stays, and is told; apply it again.
    """
    wanted = read_file(file.name, file.read())
    done: list[_Done] = []

    def tell(one: _Done) -> None:
        done.append(one)
        if not as_json:
            emit_line(_line(one, dry_run))

    try:
        context.run(url, timeout_ms, partial(_apply, wanted, dry_run, tell))
    finally:
        if as_json:
            defaults = [asdict(one) for one in done if isinstance(one, _AppliedDefaults)]
            channels = [asdict(one) for one in done if isinstance(one, _Applied)]
            rules = [asdict(one) for one in done if isinstance(one, AppliedRule)]
            emit_json({"dry_run": dry_run, "defaults": defaults, "channels": channels, "rules": rules})


async def _apply(wanted: Declared, dry_run: bool, tell: Callable[[_Done], None], client: Client) -> None:
    there: Defaults = await client.channels.list_defaults()
    for pattern, said in wanted.defaults.items():
        changes = there.get(pattern, {}) != said
        if changes and not dry_run:
            await client.channels.set_defaults(pattern, **said)
        tell(_AppliedDefaults(pattern, "set" if changes else "unchanged", said))
    defaults = {**there, **wanted.defaults}
    for name, settings in wanted.channels.items():
        tell(await _apply_one(client.channels, name, usual_settings(name, settings, defaults), dry_run))
    if wanted.routes or wanted.bindings:  # last, so that what they name has its settings
        for rule in await apply_rules(client, wanted.routes, wanted.bindings, dry_run=dry_run):
            tell(rule)


async def _apply_one(channels: Channels, name: str, wanted: Settings, dry_run: bool) -> _Applied:
    try:
        there = full_settings((await channels.describe(name))["settings"])
    except ChannelNotFound:
        if not dry_run:
            await channels.create(name, **wanted)
        return _Applied(name, "created", _changes(DEFAULTS, wanted))
    changes = _changes(there, wanted)
    if changes and not dry_run:
        await channels.update(name, **wanted)
    return _Applied(name, "updated" if changes else "unchanged", changes)


def _changes(there: Mapping[str, Any], wanted: Settings) -> dict[str, dict[str, Any]]:
    return {name: {"from": there[name], "to": value} for name, value in wanted.items() if there[name] != value}


def _line(one: _Done, dry_run: bool) -> str:
    """What was done, for people."""
    changed = one.action != "unchanged"
    action = f"would be {one.action}" if dry_run and changed else one.action
    if isinstance(one, AppliedRule):
        return f"{one.kind} {plain_text(one.name)}: {action}" + (f", {plain_text(one.destinations)}" if changed else "")
    if isinstance(one, _AppliedDefaults):
        said = [f"{name} {default_text(name, value)}" for name, value in one.settings.items()]
        return f"defaults {plain_text(one.pattern)}: {action}" + (f", {', '.join(said)}" if changed else "")
    if one.action == "created":
        told = [f"{name} {default_text(name, change['to'])}" for name, change in one.changes.items()]
    else:
        told = [
            f"{name} {default_text(name, change['from'])} → {default_text(name, change['to'])}"
            for name, change in one.changes.items()
        ]
    return f"{plain_text(one.channel)}: {action}" + (f", {', '.join(told)}" if told else "")


@click.command()
@click.option("--search", default="", metavar="TEXT", help="Only channels with this text in their names.")
@url_option
@timeout_option(_TIMEOUT_MS)
@click.pass_obj
def export(context: CommandContext, search: str, url: str, timeout_ms: int) -> None:
    """Write a file for `zmqbroker apply` to standard output: defaults, channels, routes and bindings, and no messages."""

    async def found(client: Client) -> list[str]:
        defaults, channels = await client.channels.list_defaults(), await list_channels(search, client)
        channels = [row for row in channels if not is_consumer(row["channel"])]
        return [*written_file(defaults, channels), *written_rules(*await rules_there(client))]

    text = "\n".join(context.run(url, timeout_ms, found))
    click.echo(text.encode())  # TOML is UTF-8, whatever the terminal takes
