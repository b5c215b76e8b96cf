"""Leaders die while messages are handed over: each arrives once, with its note, and in order where one worker takes them."""

from __future__ import annotations

import asyncio
import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.fault.conftest import Note
from tests.fault.handing import Chain, Handing, faults
from tests.fault.operator import verified_cluster
from tests.processes import Cluster, wait_until
from tests.raw import Answer, Raw
from zmqbroker.wire import codec
from zmqbroker.wire.frames import Reply, Request

#: Messages that are handed over in each chain before the next fault.
CONFIRMS = 300
PATIENCE_S = 60.0

ROUNDS = [pytest.param(1, id="short"), pytest.param(20, id="long", marks=pytest.mark.long)]


async def kill_leaders(nodes: Cluster, load: Handing, rounds: int) -> None:
    """Kill the leader with SIGKILL again and again, and bring it back."""

    def worked() -> None:
        target = load.confirmed + CONFIRMS
        wait_until(lambda: load.confirmed >= target, PATIENCE_S, f"{CONFIRMS} messages handed over")

    def kill() -> None:
        leader = nodes.leader()
        leader.kill()
        worked()
        leader.start()
        wait_until(lambda: nodes.caught_up(leader), PATIENCE_S, f"{leader.name} to catch up")

    for _ in range(rounds):
        await asyncio.to_thread(worked)
        await asyncio.to_thread(kill)
    await asyncio.to_thread(worked)
    load.stop()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("rounds", ROUNDS)
def test_handing_over_under_dying_leaders_brings_every_message_to_the_end_once(tmp_path: Path, note: Note, rounds: int) -> None:
    with verified_cluster(tmp_path) as nodes:
        lose_an_answer(nodes)

        async def main() -> dict[str, Chain]:
            load = Handing(nodes.url, seed=rounds)
            async with asyncio.TaskGroup() as group:
                running = group.create_task(load.run())
                group.create_task(kill_leaders(nodes, load, rounds))
            return running.result()

        for name, chain in asyncio.run(main()).items():
            note(
                f"{name}: {len(chain.sent)} confirmed, {len(chain.end)} at the end, {len(chain.told)} handed over, "
                f"{chain.stale} stale, {chain.repeats} repeats answered, {len(chain.failed)} failed"
            )
            assert faults(chain) == []
            assert len(chain.sent) > CONFIRMS
            assert chain.orderly or chain.stale


def lose_an_answer(nodes: Cluster) -> None:
    """Kill the leader when a hand-over is applied, and before anybody has read its answer; then ask again at another node."""
    session, producer, request_id = os.urandom(16), 7, 99
    batch = codec.encode_batch(b"lost.paid", [b"a", b"b"], producer, 1)
    leader = nodes.leader()
    others = [node for node in nodes.nodes.values() if node is not leader]
    with Raw(leader.endpoint) as raw:
        raw.ask(Request.HELLO, {"session": session})
        raw.ask(Request.OPEN_PRODUCER, {"channel": "lost.paid", "producer": producer})
        raw.ask(Request.SEND, {"channel": "lost"}, [b"order"])
        ((*receipt, _, _),) = raw.ask(Request.RECEIVE, {"channel": "lost"}).fields["pieces"]
        asked: dict[str, Any] = {"channel": "lost", "receipts": [receipt], "forward": True}
        raw.send(Request.HAND_OVER, asked, [batch], request_id)
        with Raw(others[0].endpoint) as other:
            wait_until(lambda: depth(other, "lost.paid") == 2, PATIENCE_S, "another node to have applied it")
    leader.kill()
    wait_until(lambda: nodes.leadership([leader]), PATIENCE_S, "another leader")
    for node in (*others, *others):
        with Raw(node.endpoint) as raw:
            raw.ask(Request.HELLO, {"session": session})
            answer = wait_until(partial(taken, raw, asked, batch, request_id), PATIENCE_S, f"an answer of {node.name}")
            assert (answer.command, answer.fields["sent"]) == (Reply.HANDED_OVER, [["lost.paid", 1, 2]])
            assert answer.fields["duplicate"] is True
            stats = raw.ask(Request.STATS, {"channel": "lost.paid", "forward": True}).fields
            assert (stats["depth"], stats["last_sequence"]) == (2, 2)
            assert raw.ask(Request.STATS, {"channel": "lost", "forward": True}).fields["acked"] == 1
    leader.start()
    wait_until(lambda: nodes.caught_up(leader), PATIENCE_S, f"{leader.name} to catch up")


def taken(raw: Raw, asked: dict[str, Any], batch: bytes, request_id: int) -> Answer | None:
    """The answer to the hand-over; None while no leader is known."""
    answer = raw.ask(Request.HAND_OVER, asked, [batch], request_id=request_id)
    return None if answer.fields.get("retryable") else answer


def depth(raw: Raw, channel: str) -> int:
    """Messages as one node knows them."""
    found = raw.ask(Request.STATS, {"channel": channel}).fields.get("depth", 0)
    assert isinstance(found, int)
    return found


def test_faults_of_a_run_are_found() -> None:
    good = Chain(True, sent={1, 2}, unknown={3}, end=[1, 2, 3], notes=[2, 1, 3])
    good.got = [(0, 1, 1), (0, 1, 1), (1, 1, 1), (2, 1, 1), (2, 2, 2)]
    good.told = [(0, 1, 1), (1, 1, 1), (1, 2, 2)]
    assert faults(good) == []
    assert faults(Chain(False, sent={1, 2}, end=[2, 1], notes=[1, 2], stale=3, failed=["it failed"])) == []
    found = {
        "is not at the end": Chain(True, sent={1}),
        "was never sent": Chain(True, end=[1], notes=[1]),
        "is at the end 2 times": Chain(False, sent={1}, end=[1, 1], notes=[1]),
        "has 0 notes": Chain(True, sent={1}, end=[1]),
        "has 2 notes": Chain(True, sent={1}, end=[1], notes=[1, 1]),
        "is at the end 0 times and has 1 notes": Chain(True, unknown={1}, notes=[1]),
        "sequences [1, 2] in queue 1": Chain(True, got=[(1, 1, 1)], told=[(0, 1, 2)]),
        "message 1 is behind message 2": Chain(True, sent={1, 2}, end=[2, 1], notes=[1, 2]),
        "3 hand-overs were refused": Chain(True, stale=3),
        "it failed": Chain(True, failed=["it failed"]),
    }
    for text, chain in found.items():
        (fault,) = faults(chain)
        assert text in fault
