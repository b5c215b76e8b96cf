"""`zmqbroker cluster recover`: when a majority of the nodes is gone for ever, a new cluster from what one of them held."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from zmqbroker.cli.exits import Exit
from zmqbroker.cli.options import json_option
from zmqbroker.cli.output import note
from zmqbroker.cli.restore import new_node, new_node_options, tell
from zmqbroker.errors import ConfigError

if TYPE_CHECKING:
    from zmqbroker.server.recovering import Recovery

__all__ = ["recover"]


@click.command()
@click.option(
    "--from", "source", required=True, type=click.Path(path_type=Path), help="Data directory of a node that does not run."
)
@new_node_options
@click.option("--accept-damage", is_flag=True, help="If its log is damaged, take what comes before the damage.")
@click.option("--yes", is_flag=True, help="Do it: the majority is gone for ever, and the loss described is accepted.")
@json_option
def recover(
    source: Path,
    target: Path,
    name: str | None,
    cluster_name: str | None,
    volume: str | None,
    peer: str,
    accept_damage: bool,
    yes: bool,
    as_json: bool,
) -> int:
    """Make a new cluster with one node from the data directory of one old node. May lose confirmed messages.

    Only for when a majority of the nodes is gone for ever: as long as one may come back, wait for it. Of several directories
    take the one that gets furthest: without --yes it only says how far that is. The old directory is never changed; let no node
    of the old cluster run any more. A damaged directory is refused unless --accept-damage is given.
    """
    from zmqbroker.server.new_directory import check_empty  # only now: the server's packages are needed
    from zmqbroker.server.recovering import recover_cluster, survey
    from zmqbroker.storage.stopped import StoppedDirectory

    check_empty(target)
    with StoppedDirectory(source) as directory:
        found = survey(directory, accept_damage=accept_damage)
        _warn(source, found)
        if not yes:
            raise ConfigError(("nothing was done: run it again with --yes to accept that",))
        old = found.identity
        node = new_node(name or old.name, cluster_name or old.cluster_name, volume or old.volume, peer)
        identity = recover_cluster(found, target, node)
        more = {"index": found.group.last_index, "term": found.group.last_term, "uncommitted": found.uncommitted}
        tell(identity, target, found.group.messages, as_json, more)
    return Exit.DONE


def _warn(source: Path, found: Recovery) -> None:
    """Say what is kept and what is lost."""
    group, identity = found.group, found.identity
    others = ", ".join(member.name for member in identity.members if member.uid != identity.node_uid) or "nobody"
    kept = sum(group.messages.values())
    note(f"zmqbroker: {source}: node {identity.name} of cluster {identity.cluster_name}")
    note(f"  Its log reaches index {group.last_index} of term {group.last_term}; committed is {group.commit_index} at least.")
    note(f"KEPT: {kept} messages in {len(group.messages)} channels: all up to index {group.last_index}.")
    note(f"  {found.uncommitted} entries of it are not known to be committed. They are kept: some may have been confirmed.")
    note("  So a send, or an ack, whose outcome its client never heard may be there now.")
    if found.flaw is not None:
        note(f"LOST: all of the log behind its damage, messages that were CONFIRMED among it: {found.flaw}")
    note(f"LOST: whatever only the other nodes held ({others}), messages that were CONFIRMED among it.")
    note("  Messages that were acked only there are delivered again.")
    note("LET NO OLD NODE RUN ANY MORE: its clients would go on in the old cluster.")
