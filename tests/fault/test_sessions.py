"""Consumers that go: what they had not acked is delivered to others long before its visibility timeout."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.fault.operator import verified_cluster
from zmqbroker import SyncClient
from zmqbroker.errors import StaleReceipt

#: No visibility timeout ends while a test runs.
VISIBILITY_MS = 3_600_000

#: A consumer that takes messages, says how many it has, and holds them until it is told to close or killed.
HOLDER = """
import sys
from zmqbroker import SyncClient
url, count = sys.argv[1], int(sys.argv[2])
with SyncClient(url) as client:
    held = client.queue("held").receive(max=count, min=count, wait_ms=20_000, visibility_ms=3_600_000)
    print(len(held), flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(url: str, count: int) -> Iterator[subprocess.Popen[str]]:
    """A consumer process that holds messages; ended whatever happens."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, url, str(count)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().strip() == str(count)
            yield process
        finally:
            process.kill()


def test_session_consumer_killed_its_messages_go_to_another(tmp_path: Path) -> None:
    environment = {"ZMQBROKER_LIMITS_SESSION_TIMEOUT_MS": "1000"}
    with verified_cluster(tmp_path, environment=environment) as nodes, SyncClient(nodes.url) as client:
        queue = client.queue("held")
        sent = [queue.send(b"%d" % number).sequence for number in range(3)]
        with holder(nodes.url, 3) as process:
            assert queue.receive(max=3) == [], "all three are in flight"
            process.kill()
            process.wait(10)
            messages = queue.receive(max=3, min=3, wait_ms=60_000, visibility_ms=VISIBILITY_MS)
        assert [(message.sequence, message.delivery_count) for message in messages] == [(number, 2) for number in sent]
        queue.ack(messages)
        assert queue.stats()["depth"] == 0


def test_session_consumer_closed_its_messages_go_to_another_at_once(tmp_path: Path) -> None:
    """At once: the session timeout is an hour here, so nothing but the close can have returned them."""
    environment = {"ZMQBROKER_LIMITS_SESSION_TIMEOUT_MS": "3600000"}
    with verified_cluster(tmp_path, environment=environment) as nodes, SyncClient(nodes.url) as client:
        queue = client.queue("held")
        sent = [queue.send(b"%d" % number).sequence for number in range(3)]
        with holder(nodes.url, 3) as process:
            process.communicate(timeout=30)
            assert process.returncode == 0
            messages = queue.receive(max=3, min=3, wait_ms=60_000, visibility_ms=VISIBILITY_MS)
        assert [(message.sequence, message.delivery_count) for message in messages] == [(number, 2) for number in sent]


def test_session_silent_but_waiting_consumer_is_kept(tmp_path: Path) -> None:
    """A live consumer keeps its messages for longer than the session timeout, and through a failover.

    An idle client says something every five seconds (PROTOCOL §1), so the timeout must be longer.
    """
    environment = {"ZMQBROKER_LIMITS_SESSION_TIMEOUT_MS": "8000"}
    with (
        verified_cluster(tmp_path, environment=environment) as nodes,
        SyncClient(nodes.url) as client,
        SyncClient(nodes.url) as other,
    ):
        queue = client.queue("held")
        queue.send(b"mine")
        (message,) = queue.receive(visibility_ms=VISIBILITY_MS)
        nodes.leader().kill()
        assert other.queue("held").receive(wait_ms=10_000) == [], "nobody else gets it, for more than a session timeout"
        message.ack()
        try:
            message.ack()
        except StaleReceipt as error:
            raise AssertionError("a repeated ack counts again") from error
        assert queue.stats()["depth"] == 0
