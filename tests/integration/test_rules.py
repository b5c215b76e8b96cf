"""Schedules, defaults and retention on three nodes: through the death of leaders, a log that was trimmed, and a wiped node.

The log has the smallest budget that there is and the cache holds nothing: bodies of schedules come from the store. Using a
channel makes it only below `open.`, which the configuration and a default say.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator

import pytest

import zmqbroker
from tests.fault.operator import verified_cluster
from tests.integration.wild import unique_channel
from tests.processes import Cluster, wait_until
from tests.raw import Raw
from zmqbroker.cli.app import run
from zmqbroker.cli.exits import Exit
from zmqbroker.errors import ChannelNotFound, ScheduleExists, ScheduleNotFound
from zmqbroker.wire.frames import Request

WAIT_MS = 15_000
BUDGET_BYTES = 256 << 10
SETTINGS = {
    "ZMQBROKER_STORAGE_SEGMENT_BYTES": str(64 << 10),
    "ZMQBROKER_STORAGE_LOG_BUDGET_BYTES": str(BUDGET_BYTES),
    "ZMQBROKER_STORAGE_CACHE_BYTES_MAX": "0",
    "ZMQBROKER_STORAGE_FLUSH_MS": "5",
    "ZMQBROKER_CHANNELS_CREATE_ON_USE": "false",
}


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with verified_cluster(tmp_path_factory.mktemp("strict"), environment=SETTINGS) as running:
        yield running


@pytest.fixture
def client(strict: Cluster) -> Iterator[zmqbroker.SyncClient]:
    with zmqbroker.SyncClient(strict.url) as made:
        made.channels.set_defaults("open.>", create_on_use=True)
        yield made


def open_channel() -> str:
    """A name that nobody has used, and whose use creates."""
    return f"open.{unique_channel()}"


def replace_leader(running: Cluster) -> None:
    """SIGKILL to the leader, another one leads, and the first one follows it."""
    former = running.leader()
    former.kill()
    wait_until(lambda: (found := running.leadership()) is not None and found[1] is not former, 15, "another leader")
    former.start()
    wait_until(lambda: running.caught_up(former), 20, "the former leader to catch up")


# --- create_on_use and defaults ------------------------------------------------------------------------------------------


def test_use_creates_no_channel_where_configuration_or_default_say_so(strict: Cluster, client: zmqbroker.SyncClient) -> None:
    name = unique_channel()
    for _ in range(2):
        with pytest.raises(ChannelNotFound, match="create_on_use is false"):
            client.queue(name).send(b"typing error")
        with pytest.raises(ChannelNotFound, match="create_on_use is false"):
            client.queue(name).receive()
        replace_leader(strict)  # the next one says the same, and not over what was said meanwhile
        assert client.channels.list_defaults()[">"] == {"create_on_use": False}
    assert client.channels.list(name) == []
    queue, other = client.queue(open_channel()), client.queue(f"{name}.other")
    queue.send(b"kept")
    (message,) = queue.receive()
    with pytest.raises(ChannelNotFound, match="create_on_use is false"):
        message.requeue(other.name)
    client.channels.create(other.name)
    message.requeue(other.name)
    assert [one.body for one in other.receive()] == [b"kept"]


def test_defaults_by_pattern_are_those_of_new_channels_from_any_node(strict: Cluster, client: zmqbroker.SyncClient) -> None:
    prefix = open_channel()
    before = client.queue(f"{prefix}.before")
    before.send(b"x")
    assert client.channels.set_defaults(f"{prefix}.>", max_messages=5, delivery_limit=3, dead_letter=f"{prefix}.dead")
    assert client.channels.set_defaults(f"{prefix}.eu.*", max_messages=7)
    replace_leader(strict)
    for node in strict.nodes.values():
        with Raw(node.endpoint) as raw:
            rows = raw.ask(Request.LIST_DEFAULTS).fields["defaults"]
        assert {"pattern": f"{prefix}.eu.*", "settings": {"max_messages": 7}} in rows
    client.queue(f"{prefix}.eu.1").send(b"x")
    client.channels.create(f"{prefix}.us", delivery_limit=0)
    client.queue(f"{prefix}.dead").send(b"x")
    told = {row["channel"].removeprefix(prefix): row["settings"] for row in client.channels.list(prefix)}
    assert told == {
        ".before": {},
        ".eu.1": {"max_messages": 7, "delivery_limit": 3, "dead_letter": f"{prefix}.dead"},
        ".us": {"max_messages": 5, "dead_letter": f"{prefix}.dead"},
        ".dead": {"max_messages": 5, "delivery_limit": 3},
    }
    assert client.channels.delete_defaults(f"{prefix}.eu.*")
    assert client.channels.delete_defaults(f"{prefix}.>")


# --- retention -----------------------------------------------------------------------------------------------------------


def test_messages_are_gone_when_they_are_too_old_and_counted(client: zmqbroker.SyncClient) -> None:
    name = open_channel()
    client.channels.create(name, max_age_ms=300)
    queue = client.queue(name)
    queue.send(b"waits", expiry_ms=60_000)
    queue.send(b"held")
    queue.send(b"waits too")
    held = queue.receive(2)[1]
    wait_until(lambda: queue.stats()["expired"] == 1, 10, "the one that waits to be too old")
    held.nack()
    assert (queue.stats()["expired"], queue.stats()["depth"]) == (2, 1)


# --- schedules -------------------------------------------------------------------------------------------------------------


def test_recurring_message_comes_again_and_again_through_the_death_of_leaders(
    strict: Cluster, client: zmqbroker.SyncClient
) -> None:
    name = open_channel()
    queue, options = client.queue(name), {"every_ms": 1000, "delay_ms": 10, "id": "beat", "tags": {"a": "b"}}
    assert client.schedules.create(name, name, b"again", **options)
    assert not client.schedules.create(name, name, b"again", **options)
    with pytest.raises(ScheduleExists) as caught:
        client.schedules.create(name, name, b"another", **options)
    assert caught.value.differing == ["message"]
    (first,) = queue.receive(wait_ms=WAIT_MS)
    assert (first.body, first.id, first.tags, first.sequence) == (b"again", "beat", {"a": "b"}, 1)
    first.ack()
    replace_leader(strict)
    (second,) = queue.receive(wait_ms=WAIT_MS)
    assert (second.body, second.sequence) == (b"again", 2)
    second.ack()
    assert second.time_unix_ns > first.time_unix_ns
    for node in strict.nodes.values():
        with Raw(node.endpoint) as raw:
            rows = raw.ask(Request.LIST_SCHEDULES, {"search": name}).fields["schedules"]
        assert [(row["name"], row["channel"], row["plan"]) for row in rows] == [
            (name, name, {"every_ms": 1000, "delay_ms": 10})
        ]
    client.schedules.delete(name)
    with pytest.raises(ScheduleNotFound):
        client.schedules.delete(name)
    assert client.schedules.list(name) == []


def test_schedule_ends_after_its_times_and_counts_what_a_full_channel_did_not_take(client: zmqbroker.SyncClient) -> None:
    name = open_channel()
    client.channels.create(name, max_messages=1)
    first_unix_ns = time.time_ns()
    client.schedules.create(name, name, b"x", every_ms=1000, first_unix_ns=first_unix_ns, times=2)
    wait_until(lambda: client.schedules.list(name)[0]["next_unix_ns"] is None, 15, "the end of the schedule")
    (row,) = client.schedules.list(name)
    assert (row["times_left"], row["stored"], row["skipped"]) == (0, 1, 1)
    assert client.queue(name).stats()["depth"] == 1


def test_cron_says_the_next_minute(client: zmqbroker.SyncClient) -> None:
    name = open_channel()
    client.schedules.create(name, name, b"x", cron="* * * * *")
    (row,) = client.schedules.list(name)
    assert row["next_unix_ns"] % 60_000_000_000 == 0
    client.schedules.delete(name)


def test_body_of_a_schedule_outlives_the_trimmed_log_all_nodes_and_a_wiped_one(
    strict: Cluster, client: zmqbroker.SyncClient
) -> None:
    name, body = open_channel(), bytes(range(256)) * 32
    client.schedules.create(name, name, body, every_ms=1000, delay_ms=10)
    wait_until(lambda: client.schedules.list(name)[0]["stored"], 15, "the first message")
    with client.queue(open_channel()).producer() as producer:
        for _ in range(12 * BUDGET_BYTES // 8192):
            producer.send(bytes(8192))
    wait_until(lambda: logs_are_small(strict), 40, "logs that have lost the entry of the schedule")
    for node in strict.nodes.values():
        node.kill()
    wiped = next(iter(strict.nodes.values()))
    shutil.rmtree(wiped.directory)
    for node in strict.nodes.values():
        if node is not wiped:
            node.start()
    count = client.queue(name).stats()["last_sequence"]
    wait_until(lambda: client.queue(name).stats()["last_sequence"] > count, 15, "one more message")
    wiped.start()
    wait_until(lambda: strict.caught_up(wiped), 60, "a copy for the wiped node")
    client.schedules.delete(name)  # from now on only messages need the body
    with Raw(wiped.endpoint) as raw:
        answer = raw.ask(Request.PEEK, {"channel": name, "plain": True})
    assert answer.bodies == [body]
    messages = client.queue(name).receive(1000)
    assert {message.body for message in messages} == {body}
    client.queue(name).ack(messages)


def logs_are_small(running: Cluster) -> bool:
    found = [running.info(name) for name in running.nodes]
    return all(info is not None and info["log"]["used_bytes"] <= BUDGET_BYTES for info in found)


def test_stopped_directory_with_a_schedule_is_verified_to_its_body(strict: Cluster, client: zmqbroker.SyncClient) -> None:
    name = open_channel()
    client.schedules.create(name, name, b"x" * 1000, every_ms=3_600_000)
    node = next(node for node in strict.nodes.values() if node is not strict.leader())
    wait_until(lambda: strict.caught_up(node), 20, "the follower to have it")
    assert node.stop() == 0
    assert run(["verify", str(node.directory)]) == Exit.DONE
    node.start()
    wait_until(lambda: strict.caught_up(node), 20, "the node to be back")
