"""`zmqbroker restore`: a new cluster's data directory from a backup. `cluster recover` shares the last part with it."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from zmqbroker import config as configuration
from zmqbroker.cli.exits import Exit
from zmqbroker.cli.options import json_option
from zmqbroker.cli.output import emit_json, emit_line, emit_table

if TYPE_CHECKING:
    from zmqbroker.server.new_directory import NewNode
    from zmqbroker.storage import Identity

__all__ = ["new_node", "new_node_options", "restore", "tell"]

#: Where a node listens unless it is told otherwise.
_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")

_Function = TypeVar("_Function", bound=Callable[..., Any])


def new_node_options(function: _Function) -> _Function:
    """Add the options that say whom a new data directory is for."""
    path = click.Path(path_type=Path)
    options = (
        click.option("--data-dir", "target", required=True, type=path, help="The new data directory; it must be empty."),
        click.option("--name", help="Name of the new node; the old one's unless given."),
        click.option("--cluster", "cluster_name", help="Name of the new cluster; the old one's unless given."),
        click.option("--volume", type=click.Choice(["ephemeral", "persistent"]), help="The old one's unless given."),
        click.option(
            "--peer",
            default="127.0.0.1:5591",
            show_default=True,
            help="host:port at which nodes that join later reach this one.",
        ),
    )
    for option in reversed(options):
        function = option(function)
    return function


@click.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@new_node_options
@json_option
def restore(
    file: Path, target: Path, name: str | None, cluster_name: str | None, volume: str | None, peer: str, as_json: bool
) -> int:
    """Make the data directory of a new cluster with one node from the backup FILE.

    FILE is checked as a whole first. The new cluster has a new uid and this node alone; others join it with `cluster add`. The
    messages that were being worked on when the backup was taken are delivered again.
    """
    from zmqbroker.server.new_directory import check_empty  # only now: the server's packages are needed
    from zmqbroker.server.restoring import check_backup, restore_backup

    check_empty(target)
    backup = check_backup(file)
    head = backup.head
    node = new_node(name or head.node, cluster_name or head.cluster_name, volume or head.volume, peer)
    identity = restore_backup(backup, target, node)
    tell(identity, target, backup.messages, as_json, {"index": head.groups[0].index, "taken_unix_ns": head.taken_unix_ns})
    return Exit.DONE


def new_node(name: str, cluster_name: str, volume: str, peer: str) -> NewNode:
    """Whom a new directory is for. Raises ConfigError, with every fault, when `serve` would not take them."""
    from zmqbroker.server.new_directory import NewNode

    names: dict[str, configuration.Value] = {"node.name": name, "cluster.name": cluster_name, "cluster.volume": volume}
    flags = {**names, "cluster.peers": (f"{name}={peer}",)}
    configuration.load(None, {}, flags)
    return NewNode(name=name, cluster_name=cluster_name, volume=volume, peer=peer)


def tell(identity: Identity, target: Path, messages: dict[str, int], as_json: bool, more: dict[str, Any]) -> None:
    """Say what was made, and how it is started."""
    own = identity.members[0]
    words = ["zmqbroker", "serve", "--name", own.name, "--data-dir", str(target), "--volume", identity.volume]
    words += ["--peers", f"{own.name}={own.peer}", "--set", f"cluster.name={identity.cluster_name}"]
    host, _, port = own.peer.rpartition(":")
    if host not in _LOOPBACK:  # others are to reach it
        words += ["--client", "tcp://0.0.0.0:5590", "--peer", f"0.0.0.0:{port}"]
    uid = identity.cluster_uid.hex() if identity.cluster_uid is not None else ""
    if as_json:
        made = {"data_dir": str(target), "node": own.name, "cluster": identity.cluster_name, "cluster_uid": uid}
        emit_json({**made, "volume": identity.volume, "messages": messages, "start": shlex.join(words), **more})
        return
    emit_table(("channel", "messages"), sorted(messages.items()))
    emit_line(f"{target}: cluster {identity.cluster_name} with the one node {own.name}, uid {uid}; start it with")
    emit_line(f"  {shlex.join(words)}")
