"""`zmqbroker apply` and `zmqbroker export`: channels as a file declares them, and the file of those that there are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from zmqbroker.cli.channel_file import read_channels, written_channels
from zmqbroker.cli.channel_tables import list_channels
from zmqbroker.cli.options import CommandContext, json_option, timeout_option, url_option
from zmqbroker.cli.output import emit_json, emit_line
from zmqbroker.cli.readable import plain_text
from zmqbroker.cli.settings import DEFAULTS, Settings, full_settings, setting_text
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


@click.command()
@click.argument("file", type=click.File("rb"))
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@url_option
@timeout_option(_TIMEOUT_MS)
@json_option
@click.pass_obj
def apply(context: CommandContext, file: BinaryIO, dry_run: bool, url: str, timeout_ms: int, as_json: bool) -> None:
    """Create and update the channels that FILE declares (-: standard input), in its order. Nothing is ever deleted.

    FILE is TOML with a table [channels."NAME"] of settings for each; a setting that it does not name gets its default. It is
    checked as a whole before anything is done. What was done before a failure stays, and is told; apply it again.
    """
    wanted = read_channels(file.name, file.read())
    done: list[_Applied] = []

    def tell(one: _Applied) -> None:
        done.append(one)
        if not as_json:
            emit_line(_line(one, dry_run))

    try:
        context.run(url, timeout_ms, partial(_apply, wanted, dry_run, tell))
    finally:
        if as_json:
            emit_json({"dry_run": dry_run, "channels": [asdict(one) for one in done]})


async def _apply(wanted: Mapping[str, Settings], dry_run: bool, tell: Callable[[_Applied], None], client: Client) -> None:
    for name, settings in wanted.items():
        tell(await _apply_one(client.channels, name, full_settings(settings), dry_run))


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


def _line(one: _Applied, dry_run: bool) -> str:
    """What was done, for people."""
    action = f"would be {one.action}" if dry_run and one.action != "unchanged" else one.action
    if one.action == "created":
        told = [f"{name} {setting_text(name, change['to'])}" for name, change in one.changes.items()]
    else:
        told = [
            f"{name} {setting_text(name, change['from'])} → {setting_text(name, change['to'])}"
            for name, change in one.changes.items()
        ]
    return f"{plain_text(one.channel)}: {action}" + (f", {', '.join(told)}" if told else "")


@click.command()
@click.option("--search", default="", metavar="TEXT", help="Only channels with this text in their names.")
@url_option
@timeout_option(_TIMEOUT_MS)
@click.pass_obj
def export(context: CommandContext, search: str, url: str, timeout_ms: int) -> None:
    """Write a file for `zmqbroker apply` to standard output: all channels with their settings, and none of their messages."""
    found = context.run(url, timeout_ms, partial(list_channels, search))
    text = "\n".join(written_channels(found))
    click.echo(text.encode())  # TOML is UTF-8, whatever the terminal takes
