"""`zmqbroker dev`: a whole cluster on this machine, to try things out.

The nodes are child processes that run what `serve` runs. They stop when this command does; their data stays for the next run.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click

from zmqbroker.cli.demonstration import demonstrate
from zmqbroker.cli.exits import Exit
from zmqbroker.cli.local_cluster import FIRST_PORT, Child, NodePlan, lock_directory, plan_nodes, settle_size, start, stop
from zmqbroker.cli.options import CommandContext, json_option
from zmqbroker.cli.output import emit_json, emit_line, note, on_terminal
from zmqbroker.cli.status import ClusterStatus, ask_cluster, show_nodes
from zmqbroker.errors import BrokerError, NoMajority

__all__ = ["dev", "trusted_directory"]

#: How long the nodes may take to form a cluster and elect a leader; a slow machine needs a few seconds.
_READY_TIMEOUT_S = 60
_POLL_S = 0.1
_ASK_TIMEOUT_MS = 1_000


@dataclass(frozen=True)
class _Wish:
    """What the command line asked for."""

    demo: bool
    stay: bool
    as_json: bool


class _ChildEnded(BrokerError):
    """A node ended before the cluster was up."""

    def __init__(self, child: Child) -> None:
        lines = child.last_lines()
        super().__init__(
            f"{child.plan.name} ended with status {child.process.returncode} before the cluster was up; "
            f"{child.plan.log_path} ends with:\n{lines}"
        )
        self.status = child.process.returncode or Exit.INTERNAL


@click.command()
@click.option("--nodes", type=click.IntRange(1, 9), help="Number of nodes, 3 unless the data directory has others.")
@click.option(
    "--data-dir", type=click.Path(path_type=Path), default=Path("zmqbroker-dev"), show_default=True, help="Where their data is."
)
@click.option(
    "--volume", type=click.Choice(["ephemeral", "persistent"]), help="ephemeral unless the data directory has another."
)
@click.option("--fresh", is_flag=True, help="Delete the data of earlier runs first.")
@click.option("--demo", is_flag=True, help="Use every pattern through different nodes, a line each.")
@click.option("--exit-after-demo", is_flag=True, help="End after the demo on a terminal too.")
@json_option
@click.pass_obj
def dev(
    context: CommandContext,
    nodes: int | None,
    data_dir: Path,
    volume: str | None,
    fresh: bool,
    demo: bool,
    exit_after_demo: bool,
    as_json: bool,
) -> int:
    """Run a cluster on this machine until Ctrl-C, which stops its nodes in order.

    With --demo and without a terminal it ends after the demo. Settings in the environment (ZMQBROKER_RAFT_TICK_MS, …) reach
    every node.
    """
    wish = _Wish(demo, not exit_after_demo and (not demo or on_terminal()), as_json)
    directory = trusted_directory(data_dir)
    with lock_directory(directory, fresh=fresh) as mark:
        size, mode = settle_size(mark, nodes, volume)
        plans = plan_nodes(size, directory.absolute())
        if plans[0].client_port != FIRST_PORT:
            note(f"ports from {FIRST_PORT} on are in use: this cluster uses those from {plans[0].client_port} on")
        if size % 2 == 0:
            note(f"{size} nodes tolerate no more failures than {size - 1}: an odd number is better")
        return asyncio.run(_run(context, plans, mode, wish))


def trusted_directory(
    wanted: Path, environment: dict[str, str] | None = None, is_safe: Callable[[Path], bool] | None = None
) -> Path:
    """`wanted`, or a directory in the user's state directory when its file system cannot be trusted with data; says so."""
    if (is_safe or _is_safe)(wanted):
        return wanted
    variables = os.environ if environment is None else environment
    base = variables.get("XDG_STATE_HOME") or str(Path(variables.get("HOME", "/tmp")) / ".local/state")
    # One place per wanted directory, so that two checkouts do not share one.
    chosen = Path(base) / "zmqbroker" / "-".join(wanted.absolute().parts[1:])
    note(f"{wanted} is on a file system that cannot be trusted with a broker's data: using {chosen}")
    return chosen


def _is_safe(wanted: Path) -> bool:
    from zmqbroker.storage.directory import UNSAFE_FILE_SYSTEMS, file_system_type  # Linux only, as are the nodes

    existing = next(path for path in (wanted.absolute(), *wanted.absolute().parents) if path.exists())
    return file_system_type(existing) not in UNSAFE_FILE_SYSTEMS


async def _run(context: CommandContext, plans: list[NodePlan], volume: str, wish: _Wish) -> int:
    """Start, show and stop the cluster; a signal ends whatever is under way."""
    loop, told = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, told.set)
    children: list[Child] = []
    work = asyncio.ensure_future(_work(context, plans, volume, wish, children))
    waiter = asyncio.ensure_future(told.wait())
    try:
        await asyncio.wait((work, waiter), return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            work.result()
        return Exit.DONE
    except _ChildEnded as error:
        note(f"zmqbroker: {error}")
        return error.status if error.status > 0 else Exit.INTERNAL
    finally:
        for task in (work, waiter):
            task.cancel()
        await asyncio.gather(work, waiter, return_exceptions=True)
        if children and wish.stay:
            _note_if_heard("stopping …")
        for name in await stop(children):
            _note_if_heard(f"{name} did not stop in time and was killed")


def _note_if_heard(text: str) -> None:
    """Tell it, unless the terminal was closed: its nodes must be stopped all the same."""
    with contextlib.suppress(OSError):
        note(text)


async def _work(context: CommandContext, plans: list[NodePlan], volume: str, wish: _Wish, children: list[Child]) -> None:
    await start(plans, volume, os.environ, children)
    found = await _until_ready(context, plans, children)
    if wish.as_json:
        emit_json({"nodes": [_child_fields(child) for child in children], "leader": found.leader, "url": _url(plans)})
        sys.stdout.flush()
    else:
        show_nodes(found)
        emit_line(found.sizes)
    if wish.demo:
        for line in await demonstrate(context, plans):
            emit_line(line)
    if wish.stay:
        if not wish.as_json:
            _show_next_steps(plans)
            sys.stdout.flush()
        await _watch(children)


def _child_fields(child: Child) -> dict[str, object]:
    plan = child.plan
    return {
        "name": plan.name,
        "pid": child.process.pid,
        "client": plan.endpoint,
        "peer": f"127.0.0.1:{plan.peer_port}",
        "data_dir": str(plan.directory),
        "log": str(plan.log_path),
    }


def _url(plans: list[NodePlan]) -> str:
    return "zmqbroker://" + ",".join(f"127.0.0.1:{plan.client_port}" for plan in plans)


async def _until_ready(context: CommandContext, plans: list[NodePlan], children: list[Child]) -> ClusterStatus:
    """Ask until all nodes answer and one leads."""
    deadline = asyncio.get_running_loop().time() + _READY_TIMEOUT_S
    while asyncio.get_running_loop().time() < deadline:
        for child in children:
            if child.process.returncode is not None:
                raise _ChildEnded(child)
        try:
            found = await ask_cluster(context.connect, plans[0].endpoint, _ASK_TIMEOUT_MS)
        except BrokerError:
            found = None
        if found is not None and found.leader is not None and found.reachable == len(plans):
            return found
        await asyncio.sleep(_POLL_S)
    raise NoMajority(f"no leader within {_READY_TIMEOUT_S} s; the nodes say why in {plans[0].log_path.parent}/*.log")


def _show_next_steps(plans: list[NodePlan]) -> None:
    """Whole lines, ready to be copied into another terminal, whatever its directory is."""
    path, command = _own_command()
    emit_line("")
    emit_line("Try next, in another terminal:")
    for line in (
        *path,
        f"export ZMQBROKER_URL={_url(plans)}",
        f"{command} status",
        f"{command} queue send orders 'first message'",
        f"{command} queue receive orders",
        f"{command} events subscribe 'orders.*'",
        f"{command} store publish orders 'kept for whoever asks'",
        f"{command} command respond greet --echo",
        f"{command} route send 'orders;events:orders.new;events_store:orders' 'to all of them'",
        f"{command} bench",
    ):
        emit_line(f"  {line}")
    if path:
        emit_line("There `python` has the client, too: the programs of the README run as they are.")
    emit_line(f"Logs and data are in {plans[0].directory.parent}. Ctrl-C stops the nodes and keeps the data.")


def _own_command() -> tuple[list[str], str]:
    """How to start this program: a line that puts its virtual environment on the PATH, where it is not, and the command."""
    script = Path(sys.argv[0])
    if script.name != "zmqbroker":
        return [], f"{sys.executable} -m zmqbroker"
    found = shutil.which("zmqbroker")
    if found is not None and Path(found).absolute() == script.absolute():
        return [], "zmqbroker"
    return [f"export PATH={shlex.quote(str(script.absolute().parent))}:$PATH"], "zmqbroker"


async def _watch(children: list[Child]) -> None:
    """Say when a node ends; return when all have."""
    waiting = {asyncio.ensure_future(child.process.wait()): child for child in children}
    try:
        while waiting:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                child = waiting.pop(task)
                note(f"{child.plan.name} ended with status {child.process.returncode}; its log is {child.plan.log_path}")
    finally:
        for task in waiting:
            task.cancel()
