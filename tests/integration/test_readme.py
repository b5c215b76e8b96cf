"""The README's programs as they stand there, but for endpoint and channel, against three nodes; and the two with each other."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import zmq

import zmqbroker
from tests.integration.test_examples import started
from tests.integration.wild import Wild, unique_channel
from tests.processes import Cluster, Node
from zmqbroker.wire.frames import Reply, Request

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
PROGRAMS = [str(found) for found in re.findall(r"```python\n(.*?)```", README, re.DOTALL)]
CLIENT, BARE, EVENTS, CALLING = (
    next(program for program in PROGRAMS if sign in program)
    for sign in ("client.queue(", "zmq.Context()", "client.events(", "ask(0x25")
)
URL, ENDPOINT, CHANNEL = "zmqbroker://127.0.0.1:5590", "tcp://127.0.0.1:5590", '"orders"'
#: Where the bare program goes over from sending to receiving.
RECEIVING = "fields, bodies = ask(0x06"
SENDING = "print(ask(0x04"

NODES = ["leader", "follower"]
SOCKETS = ["REQ", "DEALER"]


def run(program: str, *options: str) -> str:
    """The program's output; it must end well and say nothing else."""
    done = subprocess.run([sys.executable, *options, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def chosen(cluster: Cluster, which: str) -> Node:
    leader = cluster.leader()
    return leader if which == "leader" else next(node for node in cluster.nodes.values() if node is not leader)


def client_program(url: str, channel: str) -> str:
    assert CLIENT.count(URL) == CLIENT.count(CHANNEL) == 1
    return CLIENT.replace(URL, url).replace(CHANNEL, f'"{channel}"')


def bare_program(endpoint: str, channel: str, kind: str) -> str:
    assert BARE.count(ENDPOINT) == BARE.count("zmq.REQ") == BARE.count(RECEIVING) == BARE.count(SENDING) == 1
    return BARE.replace(ENDPOINT, endpoint).replace(CHANNEL, f'"{channel}"').replace("zmq.REQ", f"zmq.{kind}")


def sending_part(program: str) -> str:
    return program[: program.index(RECEIVING)]


def receiving_part(program: str) -> str:
    return program[: program.index(SENDING)] + program[program.index(RECEIVING) :]


@pytest.mark.parametrize("which", NODES)
def test_python_program_sends_receives_and_acks(trio: Cluster, which: str) -> None:
    channel = unique_channel()
    for url in (trio.url, chosen(trio, which).endpoint):
        said = run(client_program(url, channel), "-W", "error")
        assert "confirm='quorum'" in said
        assert "b'hello'" in said
    with zmqbroker.SyncClient(trio.url) as client:
        stats = client.queue(channel).stats()
    assert (stats["depth"], stats["acked"]) == (0, 2)


def test_python_program_publishes_and_subscribes(trio: Cluster) -> None:
    name = unique_channel()
    program = EVENTS.replace(URL, trio.url).replace('"orders.', f'"{name}.')
    assert run(program, "-W", "error") == f"{name}.new b'hello' {{'region': 'eu'}} 0\n"


@pytest.mark.parametrize("which", NODES)
@pytest.mark.parametrize("kind", SOCKETS)
def test_bare_program_sends_receives_and_acks(trio: Cluster, kind: str, which: str) -> None:
    channel = unique_channel()
    said = run(bare_program(chosen(trio, which).endpoint, channel, kind))
    assert "1 b'hello'" in said
    assert "'confirm': 'quorum'" in said
    with zmqbroker.SyncClient(trio.url) as client:
        stats = client.queue(channel).stats()
    assert (stats["last_sequence"], stats["depth"]) == (1, 0)


@pytest.mark.parametrize("which", NODES)
@pytest.mark.parametrize("kind", SOCKETS)
def test_messages_of_the_bare_program_are_received_by_the_python_client(trio: Cluster, kind: str, which: str) -> None:
    channel = unique_channel()
    run(sending_part(bare_program(chosen(trio, which).endpoint, channel, kind)))
    with zmqbroker.SyncClient(trio.url) as client:
        (message,) = client.queue(channel).receive(wait_ms=10_000)
        assert (message.body, message.metadata, message.delivery_count) == (b"hello", "from bare ZeroMQ", 1)
        message.ack()


@pytest.mark.parametrize("which", NODES)
@pytest.mark.parametrize("kind", SOCKETS)
def test_messages_of_the_python_client_are_received_by_the_bare_program(trio: Cluster, kind: str, which: str) -> None:
    channel = unique_channel()
    with zmqbroker.SyncClient(trio.url) as client:
        queue = client.queue(channel)
        for body in (b"one", b"two", "drei – ü".encode()):
            queue.send(body)
        said = run(receiving_part(bare_program(chosen(trio, which).endpoint, channel, kind)))
        assert said.splitlines() == ["1 b'one'", "2 b'two'", f"3 {'drei – ü'.encode()!r}"]
        assert queue.stats()["acked"] == 3


@pytest.mark.parametrize("kind", SOCKETS)
def test_bare_program_calls_a_command_that_the_python_client_answers(trio: Cluster, kind: str) -> None:
    name = unique_channel()
    bare = bare_program(chosen(trio, "follower").endpoint, "unused", kind)
    assert CALLING.count('"restart"') == 1
    program = bare[: bare.index(SENDING)] + CALLING.replace('"restart"', f'"{name}"')
    with (
        zmqbroker.SyncClient(chosen(trio, "follower").endpoint) as client,
        client.command(name).requests() as requests,
        started([sys.executable, "-c", program]) as process,
    ):
        next(requests).answer(b"restarted")
        assert process.communicate(timeout=60) == ("done b'restarted'\n", "")


def test_bare_program_that_is_refused_says_why(trio: Cluster) -> None:
    program = sending_part(bare_program(trio.leader().endpoint, "not a name", "REQ"))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "RuntimeError: INVALID_CHANNEL: channel name 'not a name' holds white space" in done.stderr


@pytest.mark.parametrize("kind", [zmq.REQ, zmq.DEALER])
def test_follower_that_is_not_asked_to_forward_names_the_leader(trio: Cluster, kind: int) -> None:
    channel = unique_channel()
    requests: list[tuple[Request, dict[str, Any], list[bytes]]] = [
        (Request.SEND, {"channel": channel}, [b"x"]),
        (Request.RECEIVE, {"channel": channel}, []),
        (Request.ACK, {"channel": channel, "receipts": [[1, 1, 1]]}, []),
        (Request.OPEN_PRODUCER, {"channel": channel, "producer": 5}, []),
        (Request.CLOSE, {}, []),
    ]
    with Wild(chosen(trio, "follower").endpoint, kind) as wild:
        for command, fields, bodies in requests:
            answer = wild.ask(command, fields, bodies)
            assert (answer.code, answer.fields["leader"]) == ("NOT_LEADER", trio.leader().endpoint)
            assert (answer.fields["retryable"], answer.fields["outcome_unknown"]) == (True, False)


def test_follower_forwards_every_request_and_answers_each_error_with_its_name(trio: Cluster) -> None:
    channel, forward = unique_channel(), {"forward": True}
    with Wild(chosen(trio, "follower").endpoint) as wild:
        opened = wild.ask(Request.OPEN_PRODUCER, {"channel": channel, "producer": 5, **forward})
        assert opened.fields == {"last_sequence": 0}
        gap = wild.ask(Request.SEND, {"channel": channel, "producer": 5, "sequence": 3, **forward}, [b"x"])
        assert (gap.code, gap.fields["expected"]) == ("OUT_OF_SEQUENCE", 1)
        sent = wild.ask(Request.SEND, {"channel": channel, "producer": 5, "sequence": 1, **forward}, [b"x"])
        assert (sent.command, sent.fields["sequence"]) == (Reply.SENT, 1)
        received = wild.ask(Request.RECEIVE, {"channel": channel, **forward})
        (piece,) = received.fields["pieces"]
        stale = wild.ask(Request.ACK, {"channel": channel, "receipts": [[piece[0] + 1, 1, 1]], **forward})
        assert stale.code == "STALE_RECEIPT"
        assert wild.ask(Request.CLOSE, forward).fields == {"returned": 1}
        large = wild.ask(Request.SEND, {"channel": channel, **forward}, [bytes((4 << 20) + 1)])
        assert large.code == "MESSAGE_TOO_LARGE"


COMMANDS = [
    line.split("  #")[0].strip() for line in README.splitlines() if re.match(r"zmqbroker (status|queue|channel|bench)", line)
]


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_of_the_readme_work_on_a_cluster(trio: Cluster, line: str) -> None:
    shown = line.replace(" orders", f" {unique_channel()}", 2).replace("zmqbroker ", f"{sys.executable} -m zmqbroker ")
    if "bench" in line:
        shown += " --count 2000"
    environment = {**os.environ, "ZMQBROKER_URL": trio.url}
    done = subprocess.run(shown, shell=True, capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def test_commands_of_the_readme_are_all_found() -> None:
    assert len(COMMANDS) == 4
