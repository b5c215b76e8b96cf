"""Nodes die while commands are called: each call ends with one answer or a named error, none hangs, and none is executed twice.

Callers and responders, some at every node, go on while the leader, or any other node with its clients, is killed with SIGKILL
and brought back. The responders are one group, so each call is for one of them: it was executed once if it was answered,
and not at all if its error says that its outcome is known.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from tests.fault.conftest import Note
from tests.processes import Cluster, Node, cluster, wait_until
from zmqbroker import Client
from zmqbroker.client import Request
from zmqbroker.errors import RequestError

CALLERS, RESPONDERS = 12, 6
TIMEOUT_MS = 4_000
#: A call that has not ended by then hangs: its own deadline is long over.
HANG_S = 60.0
#: Answers before and after each fault.
ANSWERS = 300
PATIENCE_S = 60.0

ROUNDS = [pytest.param(3, id="short"), pytest.param(30, id="long", marks=pytest.mark.long)]


class Load:
    """Callers and responders, and what became of each call."""

    def __init__(self, nodes: Cluster) -> None:
        self._endpoints = [node.endpoint.removeprefix("tcp://") for node in nodes.nodes.values()]
        self._next = 0
        self._stopping = False
        self.executed: Counter[bytes] = Counter()  # calls by their bodies: how often they were executed
        self.answered: Counter[bytes] = Counter()
        self.refused: dict[bytes, RequestError] = {}

    def stop(self) -> None:
        """End when the calls under way have ended."""
        self._stopping = True

    async def run(self) -> None:
        """Call and respond until `stop`."""
        async with contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(Client(self._url(place))) for place in range(CALLERS + RESPONDERS)]
            responders = [asyncio.create_task(self._respond(client)) for client in clients[CALLERS:]]
            await asyncio.gather(*(self._call(client) for client in clients[:CALLERS]))
            for responder in responders:
                responder.cancel()
            await asyncio.gather(*responders, return_exceptions=True)

    def _url(self, place: int) -> str:
        """All nodes, one of them first, since that is as good a home as any."""
        turn = place % len(self._endpoints)
        return "zmqbroker://" + ",".join(self._endpoints[turn:] + self._endpoints[:turn])

    async def _respond(self, client: Client) -> None:
        async def handler(request: Request) -> bytes:
            self.executed[request.body] += 1
            await asyncio.sleep(0)
            return b"done " + request.body

        await client.command("work").respond(handler, group="workers", concurrency=8)

    async def _call(self, client: Client) -> None:
        command = client.command("work")
        while not self._stopping:
            self._next += 1
            body = b"%d" % self._next
            try:
                async with asyncio.timeout(HANG_S):
                    answer = await command.call(body, timeout_ms=TIMEOUT_MS)
            except RequestError as error:
                self.refused[body] = error
                await asyncio.sleep(0.01)
            else:
                assert (answer.body, answer.error) == (b"done " + body, "")
                self.answered[body] += 1


async def kill_nodes(nodes: Cluster, load: Load, rounds: int, random: Random) -> None:
    """Kill one node after the other with SIGKILL, and bring it back."""

    def worked() -> None:
        target = len(load.answered) + ANSWERS
        wait_until(lambda: len(load.answered) >= target, PATIENCE_S, f"{ANSWERS} answers")

    def kill(choose: Callable[[], Node]) -> None:
        victim = choose()
        victim.kill()
        worked()
        victim.start()
        wait_until(lambda: nodes.caught_up(victim), PATIENCE_S, f"{victim.name} to catch up")

    try:
        for turn in range(rounds):
            await asyncio.to_thread(worked)
            await asyncio.to_thread(kill, nodes.leader if turn % 3 == 0 else lambda: random.choice(list(nodes.nodes.values())))
        await asyncio.to_thread(worked)
    finally:
        load.stop()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("rounds", ROUNDS)
def test_calls_under_dying_nodes_each_end_once_and_none_is_executed_twice(tmp_path: Path, note: Note, rounds: int) -> None:
    with cluster(tmp_path) as nodes:

        async def main() -> Load:
            load = Load(nodes)
            async with asyncio.TaskGroup() as group:
                group.create_task(load.run())
                group.create_task(kill_nodes(nodes, load, rounds, Random(rounds)))
            return load

        load = asyncio.run(main())
    assert set(load.executed.values()) == {1}, "a call was executed twice"
    assert set(load.answered.values()) == {1}
    assert load.answered.keys() <= load.executed.keys()
    known = [body for body, error in load.refused.items() if not error.outcome_unknown]
    assert not set(known) & load.executed.keys(), "a call was executed whose error says that it was not"
    codes = Counter((error.code, error.outcome_unknown) for error in load.refused.values())
    assert {code for code, _ in codes} <= {"NO_RESPONDER", "DEADLINE_EXCEEDED", "BUSY"}
    note(f"{rounds} nodes killed: {len(load.answered)} answers, " + ", ".join(f"{n} {c} {u}" for (c, u), n in codes.items()))
