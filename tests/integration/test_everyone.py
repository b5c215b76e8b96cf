"""What is the same for every pattern: what a message carries, and what a node says of itself.

One test for each row of the feature table; `docs/GUARANTEES.md` links them.
"""

from __future__ import annotations

import time

import zmqbroker
from tests.integration.wild import unique_channel
from tests.processes import Cluster

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_every_message_has_id_client_id_metadata_body_tags_time_sequence_and_trace(trio: Cluster) -> None:
    began_ns = time.time_ns()
    with zmqbroker.SyncClient(trio.url, client_id="till-3") as client:
        queue = client.queue(unique_channel())
        queue.send(b"all", id="a-1", metadata="m", tags={"k": "v"}, trace=TRACE)
        with queue.producer() as producer:
            producer.send(b"traced", trace=TRACE)
            producer.send(b"plain")
            producer.send_batch([b"batch", b"of two"])
        with zmqbroker.SyncClient(trio.url) as nameless:
            nameless.queue(queue.name).send(b"nobody's")
        messages = queue.receive(10)
    assert [(message.body, message.client_id, message.trace) for message in messages] == [
        (b"all", "till-3", TRACE),
        (b"traced", "till-3", TRACE),
        (b"plain", "till-3", ""),
        (b"batch", "till-3", ""),
        (b"of two", "till-3", ""),
        (b"nobody's", "", ""),
    ]
    assert [message.sequence for message in messages] == [1, 2, 3, 4, 5, 6]
    first = messages[0]
    assert (first.id, first.metadata, dict(first.tags)) == ("a-1", "m", {"k": "v"})
    minute_ns = 60_000_000_000
    assert all(began_ns - minute_ns < message.time_unix_ns < time.time_ns() + minute_ns for message in messages)


def test_every_node_names_host_version_uptime_role_term_size_majority_and_volume(trio: Cluster) -> None:
    told = []
    for name in trio.nodes:
        info = trio.info(name)
        assert info is not None
        told.append(info)
    for info in told:
        about, cluster, group = info["node"], info["cluster"], info["groups"][0]
        assert all(about[name] for name in ("name", "host", "version", "uptime_ms", "pid"))
        assert (cluster["size"], cluster["majority"], cluster["tolerated"], cluster["volume"]) == (3, 2, 1, "ephemeral")
        assert group["term"] >= 1
    assert len({info["node"]["uid"] for info in told}) == 3
    assert sorted(info["groups"][0]["role"] for info in told) == ["follower", "follower", "leader"]
