"""The command `zmqbroker` with all its verbs, and how each foreseeable failure ends."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence

import click

from zmqbroker.cli import calls
from zmqbroker.cli.apply import apply, export
from zmqbroker.cli.backup import backup
from zmqbroker.cli.bench import bench
from zmqbroker.cli.binding import binding
from zmqbroker.cli.channel import channel
from zmqbroker.cli.cluster import cluster
from zmqbroker.cli.dev import dev
from zmqbroker.cli.events import events
from zmqbroker.cli.exits import Exit, exit_status
from zmqbroker.cli.log import log
from zmqbroker.cli.options import CommandContext
from zmqbroker.cli.output import note
from zmqbroker.cli.queue import queue
from zmqbroker.cli.restore import restore
from zmqbroker.cli.route import route
from zmqbroker.cli.schedule import schedule
from zmqbroker.cli.serve import serve
from zmqbroker.cli.status import status
from zmqbroker.cli.store import store
from zmqbroker.cli.verify_directory import verify
from zmqbroker.errors import BrokerError, ConfigError

__all__ = ["application", "run"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="zmqbroker", message="%(package)s %(version)s")
def application() -> None:
    """A message broker that speaks ZeroMQ, replicates every queue with Raft, and loses nothing it acknowledged."""


for command in (
    *(serve, dev, status, queue, store, channel, schedule, events, calls.command, calls.query, route, binding),
    *(apply, export, cluster, bench, backup, restore, verify, log),
):
    application.add_command(command)


def run(arguments: Sequence[str], context: CommandContext | None = None) -> int:
    """Run one command; returns its exit status. Everything foreseeable ends as one line per fault on standard error."""
    try:
        result = application.main(list(arguments), "zmqbroker", standalone_mode=False, obj=context or CommandContext())
    except click.Abort:
        return Exit.INTERRUPTED
    except click.ClickException as error:
        error.show()
        return Exit.USAGE
    except ConfigError as error:
        for fault in error.faults:
            note(f"zmqbroker: {fault}")
        return Exit.USAGE
    except BrokerError as error:
        note(f"zmqbroker: {error}")
        return exit_status(error)
    except OSError as error:
        return _operating_system_fault(error)
    return result if isinstance(result, int) else Exit.DONE


def _operating_system_fault(error: OSError) -> Exit:
    """A file that cannot be read, or a reader of our output that went away."""
    if error.errno == errno.EPIPE:
        # Python flushes standard output once more at its end, and would complain again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.REFUSED
    note(f"zmqbroker: {error}")
    return Exit.USAGE
