"""Leaders and readers die while an events store is written and read: every reader gets every event, in order."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import zmqbroker
from tests.fault.conftest import Note
from tests.fault.operator import verified_cluster
from tests.fault.storing import RESET_TO, STORE, Line, Reader, Seen, Storing, faults
from tests.processes import Cluster, wait_until

#: Events that are confirmed before the next fault.
CONFIRMS = 100
PATIENCE_S = 60.0
#: What a member of a group holds when it is killed comes to the others so much later.
ENVIRONMENT = {"ZMQBROKER_LIMITS_SESSION_TIMEOUT_MS": "3000"}

ROUNDS = [pytest.param(2, id="short"), pytest.param(20, id="long", marks=pytest.mark.long)]


@contextmanager
def readers(url: str, directory: Path) -> Iterator[list[Reader]]:
    """A durable reader and two members of a group; ended whatever happens."""
    found = [Reader(url, "consumer", "billing", directory / "billing")]
    found += [Reader(url, "group", "workers", directory / f"worker-{number}") for number in (1, 2)]
    try:
        for reader in found:
            reader.start()
        yield found
    finally:
        for reader in found:
            reader.kill()


async def kill_all_sorts(nodes: Cluster, load: Storing, killed: list[Reader], rounds: int) -> None:
    """Kill the leader and a reader with SIGKILL again and again, and bring them back."""
    chance = random.Random(rounds)

    def worked() -> None:
        target = load.confirmed + CONFIRMS
        wait_until(lambda: load.confirmed >= target, PATIENCE_S, f"{CONFIRMS} confirms")

    def kill(number: int) -> None:
        leader, reader = nodes.leader(), killed[number % len(killed)]
        if chance.random() < 0.5:
            reader.kill()
            leader.kill()
        else:
            leader.kill()
            reader.kill()
        reader.start()
        worked()
        leader.start()
        wait_until(lambda: nodes.caught_up(leader), PATIENCE_S, f"{leader.name} to catch up")

    for number in range(rounds):
        await asyncio.to_thread(worked)
        await asyncio.to_thread(kill, number)
        await asyncio.to_thread(worked)
        killed[0].kill()  # the durable one once more, while the leader is well
        killed[0].start()
    load.stop()


def has_all(lives: list[list[Line]], seen: Seen) -> bool:
    """Whether readers have got every confirmed event: an ack may have been done and not be noted."""
    return {line.sequence for life in lives for line in life if line.what == "got"} >= seen.confirmed.keys()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("rounds", ROUNDS)
def test_store_under_dying_leaders_and_readers_gives_every_reader_every_event_in_order(
    tmp_path: Path, note: Note, rounds: int
) -> None:
    with verified_cluster(tmp_path, environment=ENVIRONMENT) as nodes, readers(nodes.url, tmp_path / "readers") as reading:

        async def main() -> Seen:
            load = Storing(nodes.url)
            async with asyncio.TaskGroup() as group:
                group.create_task(load.run())
                group.create_task(kill_all_sorts(nodes, load, reading, rounds))
            return load.seen

        seen = asyncio.run(main())
        billing, *workers = reading
        wait_until(lambda: has_all(billing.lives, seen), PATIENCE_S, "the durable reader to be through")
        wait_until(lambda: has_all([*workers[0].lives, *workers[1].lives], seen), PATIENCE_S, "the group to be through")
        for reader in reading:
            reader.kill()
        seen.exclusive = billing.lives
        seen.group = [*workers[0].lives, *workers[1].lives]
        with zmqbroker.SyncClient(nodes.url) as client:
            store = client.store(STORE)
            store.reset("billing", sequence=RESET_TO)
            with store.subscribe(consumer="billing") as events:
                seen.after_reset = [event.sequence for _, event in zip(range(10), events, strict=False)]
        note(
            f"{len(seen.confirmed)} confirmed, {len(seen.exclusive)} lives of the durable reader, "
            f"{len(seen.group)} of two members, {sum(map(len, seen.group))} lines of theirs"
        )
        assert faults(seen) == []
        assert len(seen.after_reset) == 10


def test_faults_of_a_run_are_found() -> None:
    def life(*lines: tuple[str, int]) -> list[Line]:
        return [Line(what, sequence, sequence + 10, at_ns) for at_ns, (what, sequence) in enumerate(lines)]

    confirmed, nameless = {1: 11, 2: 12}, [(1, 11), (2, 12)]
    good = [life(("got", 1), ("acked", 1), ("got", 2)), life(("got", 2), ("acked", 2))]
    assert faults(Seen(confirmed, nameless, good, [life(("got", 2), ("got", 1))], [RESET_TO, RESET_TO + 1])) == []
    shared = [life(("got", 1), ("got", 2))]
    found = {
        "the nameless reader got 2": Seen({}, [(2, 12)]),
        "the nameless reader has None": Seen({1: 11}, [], shared, shared),
        "the nameless reader has 12": Seen({1: 11}, [(1, 12)], shared, shared),
        "life 1 of the durable reader got 2, behind 0": Seen({}, [], [life(("got", 2))]),
        "life 2 of the durable reader got 1": Seen({}, [], [life(("got", 1), ("acked", 1)), life(("got", 1))]),
        "life 1 of the durable reader got 1, behind 1": Seen({}, [], [life(("got", 1), ("got", 1))]),
        "the durable reader has None as event 2": Seen(confirmed, nameless, [life(("got", 1))], shared),
        "came to the group again": Seen({}, [], [], [life(("got", 1), ("acked", 1), ("got", 1))]),
        "the group has None as event 2": Seen(confirmed, nameless, good, [life(("got", 1))]),
        "after a reset": Seen(after_reset=[RESET_TO + 1]),
    }
    for text, seen in found.items():
        (fault,) = faults(seen)
        assert text in fault
