"""The commands as a user runs them, as processes of their own: what they print, and the status they end with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.wild import unique_channel
from tests.processes import Cluster, free_ports, wait_until
from zmqbroker.cli.exits import Exit

COMMAND = [sys.executable, "-m", "zmqbroker"]


def run(*arguments: str, url: str = "", data: bytes = b"", directory: Path | None = None) -> subprocess.CompletedProcess[bytes]:
    """Run one command to its end, without a terminal."""
    environment = {**os.environ, **({"ZMQBROKER_URL": url} if url else {})}
    return subprocess.run(
        [*COMMAND, *arguments], input=data, capture_output=True, timeout=90, check=False, env=environment, cwd=directory
    )


@contextmanager
def serving(directory: Path, client_port: int, peer_port: int) -> Iterator[subprocess.Popen[bytes]]:
    """`serve` in a directory of its own, without any configuration but its ports."""
    ports = ["--client", f"tcp://127.0.0.1:{client_port}", "--peer", f"127.0.0.1:{peer_port}"]
    with (directory / "serve.log").open("ab") as log:
        process = subprocess.Popen([*COMMAND, "serve", *ports], cwd=directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(10)


def answers(url: str) -> bool:
    return run("status", url=url).returncode == Exit.DONE


def test_serve_without_a_configuration_is_one_node_that_keeps_its_data(tmp_path: Path) -> None:
    client_port, peer_port = free_ports(2)
    url = f"tcp://127.0.0.1:{client_port}"
    with serving(tmp_path, client_port, peer_port) as process:
        wait_until(lambda: answers(url), 30, "the node leads")
        assert run("queue", "send", "orders", "kept", url=url).returncode == Exit.DONE
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == Exit.DONE
    assert (tmp_path / "zmqbroker-data").is_dir()
    assert run("status", "--timeout-ms", "300", url=url).returncode == Exit.UNREACHABLE
    with serving(tmp_path, client_port, peer_port) as process:
        wait_until(lambda: answers(url), 30, "the node leads again")
        received = run("queue", "receive", "orders", "--json", url=url)
        assert (json.loads(received.stdout)["body"], received.returncode) == ("kept", Exit.DONE)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == Exit.DONE


def test_dev_demo_without_a_terminal_shows_all_patterns_and_ends_well(tmp_path: Path) -> None:
    done = run("dev", "--demo", directory=tmp_path)
    said = done.stdout.decode()
    assert done.returncode == Exit.DONE, done.stderr
    shown = [line.split("  ")[0] for line in said.splitlines() if line.count("  ") and "node-" in line][-6:]
    assert shown == ["queue", "events", "events store", "command", "query", "routing"]
    assert "3 messages sent and received, each through another node, confirmed by quorum" in said
    assert said.count("leader") == 1
    assert said.count("follower") == 2
    again = run("dev", "--demo", directory=tmp_path)
    assert again.returncode == Exit.DONE, again.stderr
    assert "event 3 'kept for later'" in again.stdout.decode(), "the first run's data was kept"


def test_status_shows_every_node_and_what_is_tolerated(trio: Cluster) -> None:
    leader = trio.leader().name
    shown = run("status", url=trio.url)
    assert (shown.returncode, shown.stderr) == (Exit.DONE, b"")
    lines = shown.stdout.decode().splitlines()
    assert lines[0].split() == ["node", "clients", "role", "term", "commit", "applied", "free", "MiB"]
    assert [(line.split()[0], line.split()[2]) for line in lines[1:4]] == [
        (name, "leader" if name == leader else "follower") for name in sorted(trio.nodes)
    ]
    assert lines[4] == "3 nodes, majority 2, tolerates 1 down, volume ephemeral (confirms quorum)"


def test_status_as_json_has_the_same(trio: Cluster) -> None:
    fields = json.loads(run("status", "--json", url=trio.url).stdout)
    assert (fields["leader"], fields["reachable"], fields["has_majority"]) == (trio.leader().name, 3, True)
    assert [fields["cluster"][key] for key in ("size", "majority", "tolerated", "volume")] == [3, 2, 1, "ephemeral"]
    assert {node["role"] for node in fields["nodes"]} == {"leader", "follower"}


def test_queue_send_receive_and_stats_through_any_node(trio: Cluster) -> None:
    channel = unique_channel("cli")
    urls = [node.endpoint for node in trio.nodes.values()]
    sent = run("queue", "send", channel, "one", "zwei – ü", "--json", url=urls[0])
    confirms = [json.loads(line) for line in sent.stdout.splitlines()]
    assert [(confirm["sequence"], confirm["confirm"]) for confirm in confirms] == [(1, "quorum"), (2, "quorum")]
    assert run("queue", "send", channel, "--stdin", url=urls[1], data=b"three\n\xff\xfe\n").returncode == Exit.DONE
    received = run("queue", "receive", channel, "--max", "10", "--json", url=urls[2])
    found = [json.loads(line) for line in received.stdout.splitlines()]
    assert [(message.get("body"), message.get("body_base64")) for message in found] == [
        ("one", None),
        ("zwei – ü", None),
        ("three", None),
        (None, "//4="),
    ]
    stats = json.loads(run("queue", "stats", channel, "--json", url=trio.leader().endpoint).stdout)
    assert (stats["depth"], stats["acked"], stats["last_sequence"]) == (0, 4, 4)


def test_queue_receive_of_nothing_ends_with_nothing_there(trio: Cluster) -> None:
    done = run("queue", "receive", unique_channel("cli"), "--json", url=trio.url)
    assert (done.returncode, done.stdout) == (Exit.NOTHING_THERE, b"")


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (("queue", "send", "not a name", "x"), Exit.REFUSED),
        (("queue", "stats", "nobody-used-it"), Exit.NOTHING_THERE),
        (("queue", "send", "orders"), Exit.USAGE),
        (("queue", "receive", "orders", "--max", "0"), Exit.USAGE),
        (("status", "--url", "http://x"), Exit.USAGE),
        (("status", "--url", "tcp://127.0.0.1:1", "--timeout-ms", "300"), Exit.UNREACHABLE),
        (("bench", "--count", "0"), Exit.USAGE),
        (("no-such-command",), Exit.USAGE),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else value.name,
)
def test_command_that_cannot_be_done_says_why_and_ends_with_its_status(
    trio: Cluster, arguments: tuple[str, ...], status: Exit
) -> None:
    done = run(*arguments, url=trio.url)
    assert (done.returncode, done.stdout) == (status, b"")
    assert done.stderr
    assert b"Traceback" not in done.stderr


def test_bench_measures_and_leaves_nothing_behind(trio: Cluster) -> None:
    done = run("bench", "--count", "500", "--size", "128", "--batch", "1", "--json", url=trio.url)
    assert (done.returncode, done.stderr) == (Exit.DONE, b"")
    figures = json.loads(done.stdout)
    assert (figures["sent"], figures["received"], figures["confirm"]) == (500, 500, "quorum")
    assert 0 < figures["confirm_ms"]["p50"] <= figures["confirm_ms"]["p99"] <= figures["confirm_ms"]["max"]
    left = json.loads(run("queue", "stats", figures["parameters"]["channel"], "--json", url=trio.leader().endpoint).stdout)
    assert (left["depth"], left["acked"]) == (0, 500)


def test_status_of_a_cluster_without_a_majority_ends_as_unreachable(trio: Cluster) -> None:
    leader = trio.leader()
    others = [node for node in trio.nodes.values() if node is not leader]
    try:
        for node in others:
            node.kill()
        wait_until(lambda: trio.leadership(without=others) is None, 30, "the leader stepped down")
        status = run("status", "--json", "--timeout-ms", "300", url=leader.endpoint)
        assert status.returncode == Exit.UNREACHABLE
        shown = json.loads(status.stdout)
        assert (shown["has_majority"], shown["reachable"], shown["leader"]) == (False, 1, None)
        refused = run("queue", "send", "orders", "x", "--timeout-ms", "1500", url=leader.endpoint)
        assert refused.returncode == Exit.UNREACHABLE
        assert b"must be up" in refused.stderr
    finally:
        for node in others:
            node.start()
        trio.leader()
