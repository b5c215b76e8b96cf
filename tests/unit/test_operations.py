"""docs/OPERATIONS.md against the code: every setting, port, exit status and cluster size that it lists."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from zmqbroker.cli.app import application
from zmqbroker.cli.exits import Exit
from zmqbroker.config import CLUSTER_SIZE_MAX, RESERVED_VARIABLES, NodeConfig, Value, describe, majority_of, tolerated_by

DOCUMENT = Path(__file__).resolve().parents[2] / "docs/OPERATIONS.md"


def shown(value: Value) -> str:
    """A default as TOML writes it, with powers of 1024 by name."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
            if value >= unit and value % unit == 0:
                return f"{value // unit} {name}"
        return f"{value:,}"
    return f"`{list(value)}`".replace("'", '"') if isinstance(value, tuple) else f'`"{value}"`'


def reference_table() -> list[str]:
    """The rows of the settings' table."""
    rows = []
    for item in describe():
        low, dots, high = item.allowed.partition(" … ")
        allowed = f"{shown(int(low))} … {shown(int(high))}" if dots else item.allowed
        rows.append(f"| `{item.key}` | {shown(item.default)} | {allowed} | {item.meaning} |")
    return rows


def test_operations_every_setting_has_its_row() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    documented = [
        line for line in text.splitlines() if line.startswith("| `") and line.count("|") == 5 and "." in line.split("`")[1]
    ]
    assert documented == reference_table()


def test_operations_every_exit_status_is_listed_once() -> None:
    section = DOCUMENT.read_text(encoding="utf-8").partition("## Exit statuses")[2].partition("\n## ")[0]
    listed = [
        int(line.split("|")[1])
        for line in section.splitlines()
        if line.startswith("| ") and line.split("|")[1].strip().isdigit()
    ]
    assert listed == [status.value for status in Exit]


def test_operations_every_cluster_size_is_listed() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    for size in range(1, CLUSTER_SIZE_MAX + 1):
        assert f"| {size} | {majority_of(size)} | {tolerated_by(size)} |" in text


def member_commands() -> list[list[str]]:
    """The commands of the section on members, each as its arguments."""
    return commands_of("Changing the members")


def commands_of(title: str) -> list[list[str]]:
    """The commands of a section, each as its arguments."""
    section = DOCUMENT.read_text(encoding="utf-8").partition(f"## {title}\n")[2].partition("\n## ")[0]
    blocks = section.split("```")[1::2]
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line)[1:] for line in lines if line.startswith("zmqbroker ")]


def test_operations_every_way_to_change_the_members_is_shown_and_understood() -> None:
    group = application.commands["cluster"]
    assert isinstance(group, click.Group)
    shown = {arguments[1] for arguments in member_commands() if arguments[0] == "cluster"}
    assert shown == set(group.commands) - {"recover"}  # which has a section of its own
    for command, *arguments in member_commands():
        if command == "cluster":
            group.commands[arguments[0]].make_context(arguments[0], arguments[1:])
    (serve,) = [arguments for command, *arguments in member_commands() if command == "serve"]
    with application.commands["serve"].make_context("serve", serve) as context:
        newcomer = context.params["name"]
        assert newcomer in {peer.partition("=")[0] for peer in context.params["peers"].split(",")}
    assert ["cluster", "add", newcomer] in member_commands()


def test_operations_ways_out_of_a_disaster_are_understood(tmp_path: Path) -> None:
    (tmp_path / "backup").touch()
    found = commands_of("Backup and restore") + commands_of("When nodes are lost")
    cluster = application.commands["cluster"]
    assert isinstance(cluster, click.Group)
    for name, *words in found:
        arguments = [str(tmp_path / "backup") if word.startswith("/backups/") else word for word in words]
        if name == "cluster":
            cluster.commands[arguments[0]].make_context(arguments[0], arguments[1:])
        else:
            application.commands[name].make_context(name, arguments)
    assert {name for name, *_ in found} == {"backup", "verify", "restore", "cluster"}


def test_operations_names_ports_commands_and_other_variables() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    config = NodeConfig()
    ports = [config.listen.client[0].rpartition(":")[2], config.listen.peer.rpartition(":")[2]]
    names = [*ports, *application.commands, *RESERVED_VARIABLES]
    assert [name for name in names if name not in text] == []
