"""`zmqbroker dev`: what it starts, says and stops; the nodes are stand-ins here, integration tests run real ones."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.unit.cli.fakes import FakeBroker
from zmqbroker.cli import dev
from zmqbroker.cli.app import run
from zmqbroker.cli.demonstration import demonstrate
from zmqbroker.cli.exits import Exit
from zmqbroker.cli.local_cluster import Child, NodePlan, plan_nodes, stop
from zmqbroker.cli.options import CommandContext
from zmqbroker.errors import NoMajority

WAITS = "import signal; signal.pause()"

Stand = Callable[[str], list[Child]]


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> Stand:
    """Let every node be a process of a Python program; gives the list that they are added to."""

    def install(program: str) -> list[Child]:
        started: list[Child] = []

        async def start(plans: list[NodePlan], volume: str, inherited: Mapping[str, str], children: list[Child]) -> None:
            for plan in plans:
                process = await asyncio.create_subprocess_exec(sys.executable, "-c", program.replace("NAME", plan.name))
                children.append(Child(plan, process))
            started.extend(children)

        async def shown(context: CommandContext, plans: list[NodePlan]) -> list[str]:
            async with context.connect(plans[0].endpoint) as client:
                result = await client.queue("demo").send(b"hello")
            return [f"message {result.sequence} through {len(plans)} nodes"]

        monkeypatch.setattr(dev, "start", start)
        monkeypatch.setattr(dev, "demonstrate", shown)
        monkeypatch.setattr(dev, "plan_nodes", lambda count, path: plan_nodes(count, path, lambda port: True))
        return started

    return install


@pytest.fixture
def data_dir(tmp_path: Path) -> str:
    """An empty place for a cluster."""
    return str(tmp_path / "dev")


def cluster_of(size: int) -> FakeBroker:
    """A broker whose nodes are up."""
    broker = FakeBroker()
    broker.start(size)
    return broker


def test_dev_demo_without_terminal_delivers_and_ends(
    stand_ins: Stand, data_dir: str, capsys: pytest.CaptureFixture[str]
) -> None:
    children = stand_ins(WAITS)
    broker = cluster_of(3)
    assert run(["dev", "--demo", "--data-dir", data_dir], broker.context) == Exit.DONE
    out = capsys.readouterr().out
    assert "tolerates 1 down" in out
    assert "message 1 through 3 nodes" in out
    assert [child.process.returncode for child in children] == [-signal.SIGTERM] * 3


def test_dev_on_terminal_stays_until_told_and_says_what_to_try(
    stand_ins: Stand, data_dir: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    children = stand_ins(WAITS)
    monkeypatch.setattr(dev, "on_terminal", lambda: True)
    show = dev._show_next_steps

    def show_and_interrupt(plans: list[NodePlan]) -> None:
        show(plans)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(dev, "_show_next_steps", show_and_interrupt)
    assert run(["dev", "--demo", "--nodes", "5", "--data-dir", data_dir], cluster_of(5).context) == Exit.DONE
    captured = capsys.readouterr()
    url = "zmqbroker://127.0.0.1:5590,127.0.0.1:5593,127.0.0.1:5596,127.0.0.1:5599,127.0.0.1:5602"
    assert f"\n  export ZMQBROKER_URL={url}\n" in captured.out
    assert "zmqbroker queue send orders 'first message'\n" in captured.out
    assert "stopping" in captured.err
    assert [child.process.returncode for child in children] == [-signal.SIGTERM] * 5


def test_dev_whose_terminal_was_closed_stops_its_nodes(
    stand_ins: Stand, data_dir: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    children = stand_ins(WAITS)

    def nobody_hears(text: str) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(dev, "on_terminal", lambda: True)
    monkeypatch.setattr(dev, "_show_next_steps", lambda plans: os.kill(os.getpid(), signal.SIGHUP))
    monkeypatch.setattr(dev, "note", nobody_hears)
    assert run(["dev", "--demo", "--data-dir", data_dir], cluster_of(3).context) == Exit.DONE
    assert [child.process.returncode for child in children] == [-signal.SIGTERM] * 3


@pytest.mark.parametrize(
    ("started_as", "on_path", "expected"),
    [
        ("/v e/bin/zmqbroker", None, (["export PATH='/v e/bin':$PATH"], "zmqbroker")),
        ("/venv/bin/zmqbroker", "/usr/bin/zmqbroker", (["export PATH=/venv/bin:$PATH"], "zmqbroker")),
        ("/venv/bin/zmqbroker", "/venv/bin/zmqbroker", ([], "zmqbroker")),
        ("/venv/zmqbroker/__main__.py", "/venv/bin/zmqbroker", ([], f"{sys.executable} -m zmqbroker")),
    ],
)
def test_dev_says_how_to_start_it_again(
    started_as: str, on_path: str | None, expected: tuple[list[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [started_as])
    monkeypatch.setattr("shutil.which", lambda name: on_path)
    assert dev._own_command() == expected


def test_dev_exit_after_demo_ends_on_a_terminal_too(stand_ins: Stand, data_dir: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_ins(WAITS)
    monkeypatch.setattr(dev, "on_terminal", lambda: True)
    assert run(["dev", "--demo", "--exit-after-demo", "--data-dir", data_dir], cluster_of(3).context) == Exit.DONE


def test_dev_json_names_processes_and_stays_until_all_have_ended(
    stand_ins: Stand, data_dir: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    children = stand_ins(WAITS)
    watch = dev._watch

    async def kill_and_watch(watched: list[Child]) -> None:
        for child in watched:
            child.process.kill()
        await watch(watched)

    monkeypatch.setattr(dev, "_watch", kill_and_watch)
    assert run(["dev", "--json", "--data-dir", data_dir], cluster_of(3).context) == Exit.DONE
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert [node["pid"] for node in found["nodes"]] == [child.process.pid for child in children]
    assert found["nodes"][2] == {
        "name": "node-3",
        "pid": children[2].process.pid,
        "client": "tcp://127.0.0.1:5596",
        "peer": "127.0.0.1:5597",
        "data_dir": f"{data_dir}/node-3",
        "log": f"{data_dir}/node-3.log",
    }
    assert captured.err.count("ended with status -9") == 3


def test_dev_node_that_had_to_be_killed_is_named(
    stand_ins: Stand, data_dir: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_ins(WAITS)

    async def stop_hard(children: list[Child]) -> list[str]:
        return [child.plan.name for child in children if await stop([child]) == []]

    monkeypatch.setattr(dev, "stop", stop_hard)
    assert run(["dev", "--demo", "--data-dir", data_dir], cluster_of(3).context) == Exit.DONE
    assert capsys.readouterr().err.count("did not stop in time and was killed") == 3


def test_dev_node_that_ends_at_once_is_reported_with_its_words(
    stand_ins: Stand, data_dir: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = f"open({data_dir!r} + '/NAME.log', 'w').write('port in use\\n')"
    children = stand_ins(f"import os, sys; {said}; sys.exit(2)")
    assert run(["dev", "--data-dir", data_dir], FakeBroker().context) == Exit.USAGE
    error = capsys.readouterr().err
    assert "ended with status 2 before the cluster was up" in error
    assert "port in use" in error
    assert all(child.process.returncode is not None for child in children)


def test_dev_no_leader_in_time_ends_with_unreachable(
    stand_ins: Stand, data_dir: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    children = stand_ins(WAITS)
    monkeypatch.setattr(dev, "_READY_TIMEOUT_S", 0.01)
    broker = FakeBroker()
    broker.start(3, leader=None)
    assert run(["dev", "--data-dir", data_dir], broker.context) == Exit.UNREACHABLE
    assert "no leader within 0.01 s" in capsys.readouterr().err
    assert [child.process.returncode for child in children] == [-signal.SIGTERM] * 3


def test_dev_busy_ports_and_even_size_are_said(
    stand_ins: Stand, data_dir: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_ins(WAITS)
    monkeypatch.setattr(dev, "plan_nodes", lambda count, path: plan_nodes(count, path, lambda port: port > 5600))
    broker = FakeBroker()
    broker.start(2)
    broker.nodes = {endpoint.replace(":55", ":56"): fields for endpoint, fields in broker.nodes.items()}
    for fields in broker.nodes.values():
        for member in fields["members"]:
            member["client"] = member["client"].replace(":55", ":56")
    assert run(["dev", "--nodes", "2", "--demo", "--data-dir", data_dir], broker.context) == Exit.DONE
    error = capsys.readouterr().err
    assert "ports from 5590 on are in use: this cluster uses those from 5690 on" in error
    assert "2 nodes tolerate no more failures than 1" in error


def test_demonstrate_message_that_does_not_arrive_is_an_error(tmp_path: Path) -> None:
    broker = cluster_of(3)
    broker.swallowed = {2}
    with pytest.raises(NoMajority, match="only 2 of 3 messages arrived"):
        asyncio.run(demonstrate(broker.context, plan_nodes(3, tmp_path, lambda port: True)))


def test_trusted_directory_safe_one_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dev.trusted_directory(tmp_path / "not" / "there") == tmp_path / "not" / "there"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("environment", "base"),
    [({"XDG_STATE_HOME": "/state", "HOME": "/h"}, "/state"), ({"HOME": "/h"}, "/h/.local/state")],
)
def test_trusted_directory_unsafe_one_moves_to_the_state_directory(
    environment: dict[str, str], base: str, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = dev.trusted_directory(Path("/mnt/share/zmqbroker-dev"), environment, lambda path: False)
    assert chosen == Path(base) / "zmqbroker" / "mnt-share-zmqbroker-dev"
    assert str(chosen) in capsys.readouterr().err
