"""`zmqbroker serve`: one node in this process."""

from __future__ import annotations

import os
from pathlib import Path

import click

from zmqbroker import config as configuration
from zmqbroker.cli.exits import Exit
from zmqbroker.config import NodeConfig, Value
from zmqbroker.errors import ConfigError

__all__ = ["read_configuration", "serve"]


@click.command()
@click.option("--config", "path", envvar="ZMQBROKER_CONFIG", help="A zmqbroker.toml.  [env: ZMQBROKER_CONFIG]")
@click.option("--name", help="Name of this node (node.name).")
@click.option("--data-dir", help="Directory of its data (node.data_dir); ./zmqbroker-data unless configured.")
@click.option("--client", multiple=True, help="Endpoint for clients (listen.client); may be repeated.")
@click.option("--peer", help="host:port for the other nodes (listen.peer).")
@click.option("--peers", help="All nodes as name=host:port, separated by commas (cluster.peers).")
@click.option("--volume", help="ephemeral or persistent (cluster.volume).")
@click.option("--set", "settings", multiple=True, metavar="TABLE.KEY=VALUE", help="Any other setting; may be repeated.")
def serve(
    path: str | None,
    name: str | None,
    data_dir: str | None,
    client: tuple[str, ...],
    peer: str | None,
    peers: str | None,
    volume: str | None,
    settings: tuple[str, ...],
) -> int:
    """Run one node until Ctrl-C or SIGTERM.

    Without any configuration it is a cluster of one on 127.0.0.1 with its data in ./zmqbroker-data. Flags win over the
    environment (ZMQBROKER_<TABLE>_<KEY>), which wins over the file.
    """
    named = {
        "node.name": name,
        "node.data_dir": data_dir,
        "listen.client": client or None,
        "listen.peer": peer,
        "cluster.peers": peers,
        "cluster.volume": volume,
    }
    flags: dict[str, Value] = {key: value for key, value in named.items() if value is not None}
    config = read_configuration(path, {**flags, **_parse_settings(settings)})
    from zmqbroker.server import run  # only now: the other commands work where the server's packages are not installed

    return int(run(config, owner="serve")) or Exit.DONE


def read_configuration(path: str | None, flags: dict[str, Value]) -> NodeConfig:
    """Merge file, environment and flags. Raises ConfigError with every fault."""
    text = None
    if path:
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError((f"the configuration file {path} cannot be read: {error}",)) from error
    environment = configuration.with_files(os.environ, lambda name: Path(name).read_text(encoding="utf-8"))
    return configuration.load(text, environment, flags)


def _parse_settings(settings: tuple[str, ...]) -> dict[str, Value]:
    """Read `table.key=value` pairs."""
    parsed: dict[str, Value] = {}
    for setting in settings:
        key, separator, value = setting.partition("=")
        if not separator:
            raise click.BadParameter(f"{setting!r} is not TABLE.KEY=VALUE", param_hint="--set")
        parsed[key.strip()] = value
    return parsed
