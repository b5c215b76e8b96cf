"""One to nine nodes: what the table says may be down may be down, and one more ends every publish in a named error.

size       1  2  3  4  5  6  7  8  9
majority   1  2  2  3  3  4  4  5  5
tolerated  0  0  1  1  2  2  3  3  4
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.fault.conftest import Note
from tests.fault.history import History, Outcome, Send, body_of, check
from tests.fault.operator import verified_cluster
from tests.fault.witness import Witness
from tests.processes import Cluster, Node, wait_until
from tests.raw import Answer, Raw, new_request_id
from zmqbroker import SyncClient
from zmqbroker.client import SyncConfirm
from zmqbroker.errors import DeadlineExceeded, NoMajority
from zmqbroker.wire.frames import Reply, Request

#: size -> (majority, tolerated).
TABLE = {1: (1, 0), 2: (2, 0), 3: (2, 1), 4: (3, 1), 5: (3, 2), 6: (4, 2), 7: (4, 3), 8: (5, 3), 9: (5, 4)}
CHANNEL = "sizes"
#: Elections that nine processes on two busy cores do not disturb; for few nodes the default will do.
CALM, CALM_FROM = {"ZMQBROKER_RAFT_TICK_MS": "40"}, 5
#: The client's deadline once every node that is left says that there is no majority.
DEADLINE_MS = 2_000
DONE, UNREACHABLE = 0, 3


def status(nodes: Cluster) -> tuple[int, dict[str, Any]]:
    """Exit status and JSON of `zmqbroker status`."""
    command = [sys.executable, "-m", "zmqbroker", "status", "--url", nodes.url, "--json"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return ended.returncode, json.loads(ended.stdout) if ended.stdout else {}


def healthy_row(nodes: Cluster) -> tuple[int, ...] | None:
    """Size, majority and tolerated failures by `zmqbroker status`; None while it does not find every node, and a leader."""
    exit_status, found = status(nodes)
    if exit_status != DONE or found["reachable"] != len(nodes.nodes):
        return None
    return tuple(found["cluster"][key] for key in ("size", "majority", "tolerated"))


def one_more_victim(nodes: Cluster) -> Node:
    """The node whose death ends the majority: the leader in clusters of odd size, else another one while there is one."""
    leader = nodes.leader()
    others = [node for node in nodes.nodes.values() if node.running and node is not leader]
    return others[0] if others and len(nodes.nodes) % 2 == 0 else leader


class Plain:
    """A producer of single SENDs that numbers them itself, so that it can repeat one after anything that happened."""

    def __init__(self, nodes: Cluster) -> None:
        self.history = History()
        self._nodes = nodes
        self._producer = new_request_id() | 1
        self._begun: dict[int, int] = {}  # sequence -> when it was first sent

    def open(self) -> None:
        """Make the producer known to the channel."""
        with Raw(self._nodes.leader().endpoint) as raw:
            answer = raw.ask(Request.OPEN_PRODUCER, {"channel": CHANNEL, "producer": self._producer})
        assert answer.command == Reply.PRODUCER

    def send(self, sequence: int) -> Answer:
        """Send the message of a sequence to whoever leads, again and again until it is confirmed."""
        answer: Answer = wait_until(lambda: self._confirmed(sequence), 60, f"SENT for sequence {sequence}")
        place = int(answer.fields["sequence"])
        begun_ns = self._begun[sequence]
        self.history.sends.append(Send("plain", sequence, Outcome.CONFIRMED, begun_ns, time.monotonic_ns(), place))
        return answer

    def is_refused(self, node: Node, sequence: int) -> bool:
        """Whether a node answers NO_MAJORITY."""
        return self._ask(node, sequence).code == "NO_MAJORITY"

    def _confirmed(self, sequence: int) -> Answer | None:
        answer = self._ask(self._nodes.leader(), sequence)
        assert answer.code in ("", "NOT_LEADER", "NO_MAJORITY"), answer
        return answer if answer.command == Reply.SENT else None

    def _ask(self, node: Node, sequence: int) -> Answer:
        self._begun.setdefault(sequence, time.monotonic_ns())
        fields = {"channel": CHANNEL, "producer": self._producer, "sequence": sequence}
        with Raw(node.endpoint) as raw:
            return raw.ask(Request.SEND, fields, [body_of(("plain", sequence))], timeout_ms=30_000)


def lose_as_many_as_tolerated(nodes: Cluster, tolerated: int) -> None:
    """Kill the leader and others; none if none may be down."""
    leader = nodes.leader()
    others = [node for node in nodes.nodes.values() if node is not leader]
    for node in [leader, *others][:tolerated]:
        node.kill()


def lose_majority(nodes: Cluster, witness: Witness, plain: Plain, note: Note) -> tuple[Node, SyncConfirm]:
    """Kill one node more: every publish ends in a named error, but one whose sender is patient.

    Returns the node that was killed and the patient send.
    """
    victim = one_more_victim(nodes)
    victim.kill()
    killed_ns = time.monotonic_ns()
    left = [node for node in nodes.nodes.values() if node.running]
    patient = witness.start(timeout_ms=300_000)
    for node in left:
        wait_until(partial(plain.is_refused, node, 3), 30, f"NO_MAJORITY of {node.name}")
        note(f"NO_MAJORITY of {node.name} by {(time.monotonic_ns() - killed_ns) / 1e6:.0f} ms after one node too many died")
    for hasty in [witness.start(DEADLINE_MS) for _ in range(3)]:
        # Where the only node is down, nobody is left to say that there is no majority.
        with pytest.raises(NoMajority if left else DeadlineExceeded):
            hasty.result(60)
    assert not patient.done()
    exit_status, found = status(nodes)
    assert (exit_status, found.get("has_majority", False)) == (UNREACHABLE, False)
    return victim, patient


@pytest.mark.timeout(600)
@pytest.mark.parametrize("size", TABLE)
def test_cluster_loses_what_it_tolerates_then_one_more_then_recovers(tmp_path: Path, note: Note, size: int) -> None:
    majority, tolerated = TABLE[size]
    environment = CALM if size >= CALM_FROM else {}
    with verified_cluster(tmp_path, size, environment=environment) as nodes, SyncClient(nodes.url) as client:
        witness, plain = Witness(client, CHANNEL, "witness"), Plain(nodes)
        witness.send(20)
        plain.open()
        plain.send(1)
        assert wait_until(partial(healthy_row, nodes), 60, "status of a whole cluster") == (size, majority, tolerated)

        lose_as_many_as_tolerated(nodes, tolerated)
        witness.send(20)
        plain.send(2)

        victim, patient = lose_majority(nodes, witness, plain, note)
        victim.start()
        assert patient.result(120).sequence > 0
        witness.send(20)
        plain.send(3)
        assert plain.send(3).fields["duplicate"], "it is stored once"
        plain.send(4)
        last_sequence = witness.empty()
    assert check(witness.history + plain.history, last_sequence) == []
