"""The nodes of `dev`: ports, directories that are ours and not others', and processes that stop in order."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from pathlib import Path

import pytest

from zmqbroker.cli.local_cluster import (
    Child,
    NodePlan,
    child_environment,
    lock_directory,
    plan_nodes,
    port_is_free,
    settle_size,
    start,
    stop,
)
from zmqbroker.config import load
from zmqbroker.errors import ConfigError


def test_plan_nodes_free_machine_uses_the_known_ports(tmp_path: Path) -> None:
    plans = plan_nodes(3, tmp_path, lambda port: True)
    assert [(plan.name, plan.client_port, plan.peer_port) for plan in plans] == [
        ("node-1", 5590, 5591),
        ("node-2", 5593, 5594),
        ("node-3", 5596, 5597),
    ]
    assert plans[1].directory == tmp_path / "node-2"
    assert plans[1].log_path == tmp_path / "node-2.log"


@pytest.mark.parametrize(("busy", "first"), [({5590}, 5690), ({5598}, 5690), ({5599}, 5590), ({5591, 5691}, 5790)])
def test_plan_nodes_busy_port_uses_the_next_free_block(busy: set[int], first: int, tmp_path: Path) -> None:
    assert plan_nodes(3, tmp_path, lambda port: port not in busy)[0].client_port == first


def test_plan_nodes_no_free_port_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no block of 9 free ports from 5590 on"):
        plan_nodes(3, tmp_path, lambda port: False)


def test_port_is_free_sees_a_listener() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        assert not port_is_free(port)
    assert port_is_free(port)


def test_child_environment_makes_nodes_that_know_each_other(tmp_path: Path) -> None:
    plans = plan_nodes(3, tmp_path, lambda port: True)
    inherited = {
        "PATH": "/bin",
        "ZMQBROKER_RAFT_TICK_MS": "7",
        "ZMQBROKER_URL": "x",
        "ZMQBROKER_CONFIG": "y",
        "ZMQBROKER_PURE": "1",
    }
    environment = child_environment(plans[1], plans, "persistent", inherited)
    config = load(None, environment, {})
    assert (config.node.name, config.node.data_dir) == ("node-2", str(tmp_path / "node-2"))
    assert [peer.address for peer in config.peers] == ["127.0.0.1:5591", "127.0.0.1:5594", "127.0.0.1:5597"]
    assert (config.client_endpoint, config.listen.peer) == ("tcp://127.0.0.1:5593", "127.0.0.1:5594")
    assert (config.cluster.volume, config.raft.tick_ms) == ("persistent", 7)
    assert environment["ZMQBROKER_OWNER"] == "dev"
    assert {"ZMQBROKER_URL", "ZMQBROKER_CONFIG"} & set(environment) == set()
    assert environment["ZMQBROKER_PURE"] == "1"


def test_lock_directory_new_one_is_made_and_reused(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "dev"
    with lock_directory(path, fresh=False) as mark:
        assert settle_size(mark, None, None) == (3, "ephemeral")
    with lock_directory(path, fresh=False) as mark:
        assert settle_size(mark, 3, "ephemeral") == (3, "ephemeral")


def test_lock_directory_of_somebody_else_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("irreplaceable")
    with (
        pytest.raises(ConfigError, match=r"is not empty and was not made by zmqbroker dev"),
        lock_directory(tmp_path, fresh=True),
    ):
        pass
    assert (tmp_path / "thesis.txt").read_text() == "irreplaceable"


def test_lock_directory_in_use_is_refused(tmp_path: Path) -> None:
    with (
        lock_directory(tmp_path, fresh=False),
        pytest.raises(ConfigError, match="in use by another zmqbroker dev"),
        lock_directory(tmp_path, fresh=True),
    ):
        pass


def test_lock_directory_fresh_deletes_nodes_and_nothing_else(tmp_path: Path) -> None:
    with lock_directory(tmp_path, fresh=False) as mark:
        settle_size(mark, 5, "persistent")
    (tmp_path / "node-5" / "log").mkdir(parents=True)
    (tmp_path / "node-5.log").write_text("x")
    (tmp_path / "notes").write_text("x")
    with lock_directory(tmp_path, fresh=True) as mark:
        assert settle_size(mark, None, None) == (3, "ephemeral")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cluster.json", "notes"]


def test_settle_size_other_wishes_than_the_data_are_all_reported(tmp_path: Path) -> None:
    mark = tmp_path / "cluster.json"
    mark.write_text(json.dumps({"nodes": 3, "volume": "ephemeral"}))
    with pytest.raises(ConfigError) as caught:
        settle_size(mark, 5, "persistent")
    assert [fault.split(":")[0].removeprefix(str(tmp_path)) for fault in caught.value.faults] == [
        " holds 3 nodes, not 5",
        " holds ephemeral nodes, not persistent",
    ]


@pytest.mark.parametrize("content", ["{", "{}", '{"nodes": "x", "volume": "y"}', "[]"])
def test_settle_size_damaged_mark_says_what_to_do(content: str, tmp_path: Path) -> None:
    mark = tmp_path / "cluster.json"
    mark.write_text(content)
    with pytest.raises(ConfigError, match="damaged; --fresh starts anew"):
        settle_size(mark, None, None)


OBEDIENT = "import signal; print('up', flush=True); signal.pause()"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True)\nwhile True: signal.pause()"


async def _child(program: str, tmp_path: Path, name: str) -> Child:
    """A process that has begun to run `program`."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    assert await process.stdout.readline() == b"up\n"
    return Child(NodePlan(name, 1, 2, tmp_path / name), process)


def test_stop_obedient_ended_and_stubborn_children_are_all_gone(tmp_path: Path) -> None:
    async def scenario() -> tuple[list[str], list[int | None]]:
        children = [
            await _child(program, tmp_path, name) for name, program in (("a", OBEDIENT), ("b", STUBBORN), ("c", OBEDIENT))
        ]
        children[2].process.kill()
        await children[2].process.wait()
        killed = await stop(children, timeout_s=0.2)
        return killed, [child.process.returncode for child in children]

    killed, statuses = asyncio.run(scenario())
    assert killed == ["b"]
    assert statuses == [-15, -9, -9]


def test_start_runs_a_server_with_its_output_in_a_file(tmp_path: Path) -> None:
    async def scenario() -> list[Child]:
        children: list[Child] = []
        # A setting with a fault ends the node at once, before it touches ports or data.
        await start(plan_nodes(1, tmp_path, lambda port: True), "forever", {}, children)
        await children[0].process.wait()
        return children

    (child,) = asyncio.run(scenario())
    assert child.process.returncode == 2
    assert "'forever' is not one of ephemeral, persistent" in child.last_lines()
    assert child.plan.log_path.exists()


def test_last_lines_without_a_file_is_empty(tmp_path: Path) -> None:
    async def scenario() -> Child:
        child = await _child(OBEDIENT, tmp_path, "a")
        await stop([child])
        return child

    assert asyncio.run(scenario()).last_lines() == ""
