"""Damaged files: what a minority has lost heals from the others, and a majority that is damaged deletes nothing and waits.

One random bit is flipped, or the tail cut off, in a random file of a node that is stopped; then it starts under load. Either
the damage is in bytes that nobody needs, or the node notices it, does not vote, and takes its own place again.
"""

from __future__ import annotations

import hashlib
import random
import time
from functools import partial
from pathlib import Path

import lmdb
import pytest

from tests.fault.conftest import Note
from tests.fault.damage import cut, damage, files_of, flip, supervised
from tests.fault.history import body_of, check
from tests.fault.load import Load
from tests.fault.operator import verified_cluster
from tests.fault.test_failover import depth, last_sequence
from tests.fault.test_wiped import WATCHED_S, has_no_majority, has_said, members, send
from tests.fault.witness import Witness
from tests.processes import Cluster, Node, cluster, stays, wait_until
from zmqbroker import SyncClient
from zmqbroker.wire.frames import Reply

CHANNEL = "failover"
RATE, CONFIRMS = 300, 400
PATIENCE_S = 90.0
#: Little enough that there are several segments, so that all kinds of damage can happen to them.
SMALL = {"ZMQBROKER_STORAGE_SEGMENT_BYTES": "262144", "ZMQBROKER_STORAGE_CACHE_BYTES_MAX": "65536"}
RECOVERING = "recovering: "


def work(producers: Load) -> None:
    """Let some messages be confirmed."""
    target = producers.done + CONFIRMS
    wait_until(lambda: producers.done >= target, PATIENCE_S, f"{CONFIRMS} confirms")


def is_well(nodes: Cluster, node: Node, before: dict[str, int]) -> bool:
    """Whether a node votes and has caught up; under another id than before if it did not trust its data."""
    if not node.running or nodes.info(node.name) is None:
        return False
    now = members(nodes)
    rejoined = has_said(node, RECOVERING)
    others = {name for name in before if name != node.name and now.get(name) == before[name]}
    return len(others) == len(before) - 1 and (now.get(node.name, 0) > before[node.name]) == rejoined and nodes.caught_up(node)


def heal(directory: Path, seed: int, note: Note) -> None:
    """Damage one file of one of three nodes, and look what comes of it."""
    chance = random.Random(seed)
    volume = chance.choice(["ephemeral", "persistent"])
    with (
        verified_cluster(directory, volume=volume, environment=SMALL) as nodes,
        Load("produce", nodes.url, CHANNEL, directory / "produce", rate=RATE) as producers,
    ):
        work(producers)
        victim, before = chance.choice(list(nodes.nodes.values())), members(nodes)
        if chance.random() < 0.5:
            victim.kill()
        else:
            assert victim.stop() == 0
        done = damage(chance, victim.directory)
        work(producers)
        victim.start()
        supervised(victim, partial(is_well, nodes, victim, before), PATIENCE_S, f"{victim.name} well again after: {done}")
        note(f"{'healed' if has_said(victim, RECOVERING) else 'harmless'}: {done}")
        work(producers)
        with Load("consume", nodes.url, CHANNEL, directory / "consume") as consumers:
            sent = producers.finish()
            wait_until(lambda: depth(nodes) == 0, PATIENCE_S, "an empty queue")
            history = sent + consumers.finish()
        assert len(history.confirmed) == len(history.sends), "an error that a retrying client sees"
        assert check(history, last_sequence(nodes)) == [], done


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(8))
def test_damage_of_one_node_is_harmless_or_heals(tmp_path: Path, seed: int, note: Note) -> None:
    heal(tmp_path, seed, note)


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(100, 300))
def test_damage_of_one_node_is_harmless_or_heals_long(tmp_path: Path, seed: int, note: Note) -> None:
    heal(tmp_path, seed, note)


def contents(node: Node) -> dict[str, str]:
    """What is in a node's data directory, but for what is said of its runs, LMDB's lock and a segment that was never used."""
    own = ("run.json", "recovering.json", "crashes", "spare", "lock.mdb")
    found = [path for path in files_of(node.directory) if path.name not in own]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def log_of(node: Node) -> Path:
    """The oldest segment of a node."""
    return min((node.directory / "log").glob("*.segment"))


@pytest.mark.timeout(200)
@pytest.mark.parametrize("volume", ["ephemeral", "persistent"])
def test_damage_of_a_majority_is_named_and_nothing_is_deleted(tmp_path: Path, volume: str) -> None:
    with cluster(tmp_path, volume=volume) as nodes:
        wait_until(lambda: send(nodes.leader()).command == Reply.SENT, PATIENCE_S, "a confirm")
        damaged, whole = list(nodes.nodes.values())[:2], nodes.nodes["node-3"]
        for node in nodes.nodes.values():
            node.kill()
        names = [log_of(damaged[0]), damaged[1].directory / "identity.json"]
        flip(names[0], 4096 + 60)
        cut(names[1], names[1].stat().st_size // 2)
        before = [contents(node) for node in damaged]
        for _ in range(2):  # what was noted once is known at the next start
            for node in nodes.nodes.values():
                node.start()
            for node, name in zip(damaged, names, strict=True):
                wait_until(partial(has_said, node, f"{RECOVERING}{name}"), PATIENCE_S, f"{node.name} to name {name}")
            wait_until(lambda: has_no_majority(whole), PATIENCE_S, "NO_MAJORITY of the node that is whole")
            stays(lambda: has_no_majority(*nodes.nodes.values()), WATCHED_S, "no majority is left")
            for node, name in zip(damaged, names, strict=True):
                info = nodes.info(node.name, timeout_ms=10_000)
                assert info is not None
                assert str(name) in info["data"]["recovering"]
            for node in nodes.nodes.values():
                assert node.stop() == 0
        assert [contents(node) for node in damaged] == before


def test_damage_of_a_node_that_is_alone_is_refused_by_name(tmp_path: Path) -> None:
    with cluster(tmp_path, 1) as nodes:
        node = nodes.leader()
        assert send(node).command == Reply.SENT
        node.kill()
        flip(log_of(node), 4096 + 60)
        before = contents(node)
        for _ in range(2):
            node.start()
            assert node.process is not None
            assert node.process.wait(30) == 6
            assert f"damaged: {log_of(node)}" in node.log()
        assert contents(node) == before


@pytest.mark.timeout(200)
def test_damage_that_a_running_node_reads_ends_it_and_heals(tmp_path: Path) -> None:
    """The leader's log is damaged while it runs: it notices when it reads a message there, and must not deliver it."""
    with verified_cluster(tmp_path, environment={**SMALL, "ZMQBROKER_STORAGE_CACHE_BYTES_MAX": "0"}) as nodes:
        with SyncClient(nodes.url) as client:
            witness = Witness(client, "damaged", "w")
            witness.send(20)
            leader, before = nodes.leader(), members(nodes)
            for path in (leader.directory / "log").glob("*.segment"):
                data = path.read_bytes()
                body = data.find(body_of(("w", 20)))
                if body >= 0:
                    flip(path, body)
            assert witness.empty() == 20
            assert check(witness.history, 20) == []
        supervised(leader, partial(is_well, nodes, leader, before), PATIENCE_S, f"{leader.name} well again")
        assert has_said(leader, RECOVERING)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(1, 10))])
def test_recovering_node_that_is_killed_again_and_again_heals(tmp_path: Path, seed: int) -> None:
    """At any instant between the note and the vote: it goes on where it was, under one new uid."""
    chance = random.Random(seed)
    with (
        verified_cluster(tmp_path, environment=SMALL) as nodes,
        Load("produce", nodes.url, CHANNEL, tmp_path / "produce", rate=RATE) as producers,
    ):
        work(producers)
        victim, before = next(node for node in nodes.nodes.values() if node is not nodes.leader()), members(nodes)
        victim.kill()
        cut(log_of(victim), 3 * 4096)
        for _ in range(6):
            victim.start()
            began_ns = time.monotonic_ns()
            wait_ns = chance.randrange(8_000) * 1_000_000
            wait_until(lambda: time.monotonic_ns() - began_ns >= wait_ns, 10, "the instant at which it is killed")  # noqa: B023
            victim.kill()
        victim.start()
        supervised(victim, partial(is_well, nodes, victim, before), PATIENCE_S, f"{victim.name} well again")
        assert len(list(victim.directory.glob("stale-*"))) == 1
        work(producers)
        with Load("consume", nodes.url, CHANNEL, tmp_path / "consume") as consumers:
            sent = producers.finish()
            wait_until(lambda: depth(nodes) == 0, PATIENCE_S, "an empty queue")
            history = sent + consumers.finish()
        assert len(history.confirmed) == len(history.sends), "an error that a retrying client sees"
        assert check(history, last_sequence(nodes)) == []


@pytest.mark.timeout(200)
def test_store_that_kills_the_process_twice_is_damage(tmp_path: Path) -> None:
    """A store that is too short is mapped all the same, and reading it is a SIGBUS: no error that could be caught."""
    with verified_cluster(tmp_path) as nodes:
        assert send(nodes.leader()).command == Reply.SENT
        victim, before = next(node for node in nodes.nodes.values() if node is not nodes.leader()), members(nodes)
        store = victim.directory / "state" / "data.mdb"
        wait_until(lambda: store.stat().st_size > 2 * 4096, PATIENCE_S, "a flush")
        assert victim.stop() == 0
        cut(store, 2 * 4096)
        victim.start()
        supervised(victim, partial(is_well, nodes, victim, before), PATIENCE_S, f"{victim.name} well again")
        assert has_said(victim, f"{RECOVERING}{victim.directory}/state: the process died 2 times")


@pytest.mark.timeout(200)
def test_key_that_the_store_has_lost_is_found_by_a_start_and_heals(tmp_path: Path) -> None:
    """All that is there is good, and one key is not there: what damage to LMDB's own pages does."""
    with verified_cluster(tmp_path) as nodes, SyncClient(nodes.url) as client:
        witness = Witness(client, "damaged", "w")
        witness.send(20)
        victim, before = next(node for node in nodes.nodes.values() if node is not nodes.leader()), members(nodes)
        store = victim.directory / "state" / "data.mdb"
        wait_until(lambda: store.stat().st_size > 3 * 4096, PATIENCE_S, "a flush")  # an empty one has three pages
        assert victim.stop() == 0
        with lmdb.open(str(victim.directory / "state")) as environment, environment.begin(write=True) as transaction:
            keys = [bytes(key) for key, _ in transaction.cursor() if bytes(key).startswith(b"\0\1") and len(key) > 2]
            assert transaction.delete(random.choice(keys))
        victim.start()
        supervised(victim, partial(is_well, nodes, victim, before), PATIENCE_S, f"{victim.name} well again")
        # Of some keys it is said what else needs them; of all others only the digest knows.
        assert has_said(victim, f"{RECOVERING}{victim.directory}/state: ")
        assert witness.empty() == 20
        assert check(witness.history, 20) == []
