"""`zmqbroker channel defaults`: settings of channels that are yet to be made, by patterns of their names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from zmqbroker.cli.options import CommandContext, json_option, timeout_option, url_option
from zmqbroker.cli.output import emit_json, emit_line, emit_table, note
from zmqbroker.cli.readable import plain_text
from zmqbroker.cli.settings import parse_defaults, setting_text
from zmqbroker.commands import CREATE_ON_USE

__all__ = ["default_text", "defaults"]

_TIMEOUT_MS = 30_000


@click.group()
def defaults() -> None:
    """Settings of channels that are yet to be made, by patterns of their names."""


@defaults.command(name="set")
@click.argument("pattern")
@click.option("--set", "pairs", multiple=True, required=True, metavar="KEY=VALUE", help="A setting, or create_on_use.")
@url_option
@timeout_option(_TIMEOUT_MS)
@json_option
@click.pass_obj
def set_(context: CommandContext, pattern: str, pairs: tuple[str, ...], url: str, timeout_ms: int, as_json: bool) -> None:
    """Give channels whose names fit PATTERN these settings when they are made, instead of all that was said of PATTERN.

    In PATTERN `*` stands for any one token between dots, and `>` at its end for all that follow. The most specific pattern that
    says a setting counts. create_on_use=false: using such a channel does not make it. Channels that are there stay as they are.
    """
    said = parse_defaults(pairs)
    changed = context.run(url, timeout_ms, lambda client: client.channels.set_defaults(pattern, **said))
    if as_json:
        emit_json({"pattern": pattern, "changed": changed, "settings": said})
    else:
        emit_line(f"{plain_text(pattern)}: {'set' if changed else 'it was so already'}")


@defaults.command()
@click.argument("pattern")
@url_option
@timeout_option(_TIMEOUT_MS)
@json_option
@click.pass_obj
def delete(context: CommandContext, pattern: str, url: str, timeout_ms: int, as_json: bool) -> None:
    """Forget what was said of PATTERN."""
    changed = context.run(url, timeout_ms, lambda client: client.channels.delete_defaults(pattern))
    if as_json:
        emit_json({"pattern": pattern, "deleted": changed})
    else:
        emit_line(f"{plain_text(pattern)}: {'deleted' if changed else 'nothing was said of it'}")


@defaults.command(name="list")
@url_option
@timeout_option(_TIMEOUT_MS)
@json_option
@click.pass_obj
def list_(context: CommandContext, url: str, timeout_ms: int, as_json: bool) -> None:
    """List all patterns with what is said of them."""
    found = context.run(url, timeout_ms, lambda client: client.channels.list_defaults())
    if as_json:
        emit_json(found)
    elif found:
        rows = [(plain_text(pattern), _settings_text(said)) for pattern, said in found.items()]
        emit_table(("pattern", "settings"), rows)
    else:
        note("zmqbroker: no defaults")


def _settings_text(said: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {default_text(name, value)}" for name, value in said.items())


def default_text(name: str, value: object) -> str:
    """The value of a default for people."""
    return str(value).lower() if name == CREATE_ON_USE else setting_text(name, value)
