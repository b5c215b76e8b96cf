"""The command line with real nodes: `dev` brings up a cluster, the other commands work on it, its data stays."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from zmqbroker.cli.exits import Exit

COMMAND = [sys.executable, "-m", "zmqbroker"]


def command(*arguments: str, data: str = "") -> subprocess.CompletedProcess[str]:
    """Run one command to its end."""
    return subprocess.run([*COMMAND, *arguments], input=data, capture_output=True, text=True, timeout=60, check=False)


@contextmanager
def development_cluster(directory: Path, *arguments: str) -> Iterator[dict[str, Any]]:
    """A running `dev`; yields what it said of itself, and stops it as Ctrl-C does."""
    with (directory / "dev.err").open("a") as said:
        process = subprocess.Popen(
            [*COMMAND, "dev", "--json", "--data-dir", str(directory / "dev"), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
        )
    assert process.stdout is not None
    with process.stdout as out:
        try:
            line = out.readline()
            assert line, (directory / "dev.err").read_text()
            yield json.loads(line)
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == Exit.DONE
        finally:
            if process.poll() is None:
                process.terminate()  # it stops its nodes; killing it would leave them
                process.wait(60)


def is_running(pid: int) -> bool:
    """Whether a process with that id exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("volume", ["ephemeral", "persistent"])
def test_dev_messages_survive_its_restart(volume: str, tmp_path: Path) -> None:
    with development_cluster(tmp_path, "--volume", volume) as cluster:
        url = cluster["url"]
        sent = command("queue", "send", "orders", "--stdin", "--json", "--url", url, data="one\ntwo\nthree\n")
        assert [json.loads(line)["sequence"] for line in sent.stdout.splitlines()] == [1, 2, 3]
        received = command("queue", "receive", "orders", "--url", url, "--json", "--wait-ms", "5000")
        assert (json.loads(received.stdout)["body"], received.returncode) == ("one", Exit.DONE)
        kept = command("queue", "receive", "orders", "--url", url, "--json", "--no-ack")
        assert json.loads(kept.stdout)["body"] == "two"
        pids = [node["pid"] for node in cluster["nodes"]]
        assert all(is_running(pid) for pid in pids)
    assert [pid for pid in pids if is_running(pid)] == []
    with development_cluster(tmp_path) as cluster:
        received = command("queue", "receive", "orders", "--url", cluster["url"], "--max", "9", "--wait-ms", "5000", "--json")
        found = [json.loads(line) for line in received.stdout.splitlines()]
        assert [(message["sequence"], message["body"], message["delivery_count"]) for message in found] == [
            (2, "two", 2),
            (3, "three", 1),
        ]
        nothing = command("queue", "receive", "orders", "--url", cluster["url"])
        assert (nothing.returncode, nothing.stdout) == (Exit.NOTHING_THERE, "")


def test_commands_on_a_cluster_say_what_they_should(tmp_path: Path) -> None:
    with development_cluster(tmp_path, "--nodes", "1") as cluster:
        url = cluster["url"]
        status = command("status", "--url", url, "--json")
        assert status.returncode == Exit.DONE
        assert json.loads(status.stdout)["nodes"][0]["role"] == "leader"
        assert command("status", "--alive", "--url", url).stdout == "node-1 answers\n"
        assert command("queue", "stats", "nobody", "--url", url).returncode == Exit.NOTHING_THERE
        assert command("queue", "send", "a b", "x", "--url", url).returncode == Exit.REFUSED
        measured = command("bench", "--count", "2000", "--size", "128", "--json", "--url", url)
        assert json.loads(measured.stdout)["received"] == 2_000
        second = command("dev", "--demo", "--data-dir", str(tmp_path / "dev"))
        assert second.returncode == Exit.USAGE
        assert "in use by another zmqbroker dev" in second.stderr
    gone = command("status", "--url", url, "--timeout-ms", "500")
    assert gone.returncode == Exit.UNREACHABLE
    assert gone.stderr.count("\n") == 1


def test_serve_with_faults_ends_with_all_of_them() -> None:
    done = command("serve", "--set", "raft.tick_ms=0", "--volume", "forever")
    assert done.returncode == Exit.USAGE
    assert len(done.stderr.splitlines()) == 2


def test_serve_refuses_a_data_directory_of_dev(tmp_path: Path) -> None:
    with development_cluster(tmp_path, "--nodes", "1") as cluster:
        node = cluster["nodes"][0]
    done = command("serve", "--name", node["name"], "--data-dir", node["data_dir"], "--set", "cluster.name=dev")
    assert done.returncode == Exit.USAGE
    assert node["data_dir"] in done.stderr
