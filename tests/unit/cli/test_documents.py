"""What docs/OPERATIONS.md says of queues and channels by command, against the commands."""

from __future__ import annotations

import re
import shlex
from dataclasses import fields
from pathlib import Path

import click
import pytest

from zmqbroker.cli.app import application
from zmqbroker.cli.channel_file import Declared, read_file
from zmqbroker.commands import ChannelSettings

TEXT = (Path(__file__).resolve().parents[3] / "docs" / "OPERATIONS.md").read_text(encoding="utf-8")
SECTION = TEXT.partition("## Queues and channels by command\n")[2].partition("\n## ")[0]
COMMANDS = [shlex.split(line, comments=True)[1:] for line in SECTION.splitlines() if line.startswith("zmqbroker ")]


@pytest.mark.parametrize("noun", ["queue", "channel", "schedule", "route", "binding"])
def test_operations_every_command_of_a_noun_is_shown(noun: str) -> None:
    group = application.commands[noun]
    assert isinstance(group, click.Group)
    assert {words[1] for words in COMMANDS if words[0] == noun} == set(group.commands)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_operations_command_is_understood(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("channels.toml").touch()
    command: click.Command = application
    name, *rest = "zmqbroker", *words[: words.index(">") if ">" in words else None]
    while isinstance(command, click.Group):
        name, *rest = rest
        command = command.commands[name]
    with command.make_context(name, rest):
        pass


def test_operations_every_setting_is_explained() -> None:
    rows = [line.split("|")[1] for line in SECTION.splitlines() if line.startswith("| `")]
    assert re.findall(r"`(\w+)`", "".join(rows)) == [field.name for field in fields(ChannelSettings)]


def test_operations_file_of_channels_is_understood() -> None:
    shown = SECTION.partition("```toml\n")[2].partition("```")[0]
    assert read_file("shown", shown.encode()) == Declared(
        {"orders.>": {"max_messages": 100_000}},
        {"orders": {"delivery_limit": 5, "dead_letter": "orders.dead"}},
        {"audit": "audit.eu;events:audit"},
        {"events_store:orders.>": "billing"},
    )
