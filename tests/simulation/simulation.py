"""One run from its first event to its verdict: faults, then an end in which a majority is healed and must make progress (I22).

In the end the producers stop, the consumers empty every queue, and what all clients saw is judged (I23). Whatever was left
broken stays broken: it must not hold up the others.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from tests.simulation.checkers import check_histories
from tests.simulation.cluster import Cluster
from tests.simulation.failure import Violation
from tests.simulation.liveness import Ending
from tests.simulation.nemesis import Nemesis
from tests.simulation.options import Options, draw
from tests.simulation.trace import Trace

__all__ = ["Report", "run", "simulate"]


@dataclass(slots=True)
class Report:
    """What a run came to."""

    seed: int
    events: int
    virtual_ns: int
    trace: str  # digest of everything that happened
    commit_index: int
    faults: Counter[str]  # caused, by kind
    counters: Counter[str]  # what happened, by kind
    recovery_ns: int  # from healing to the first confirmed send that was begun afterwards


def simulate(seed: int, *, nodes: int | None = None, trace: Trace | None = None) -> Report:
    """Run the seed. Raises `Violation`."""
    return run(draw(seed, nodes=nodes), trace, nodes)


def run(options: Options, trace: Trace | None = None, nodes: int | None = None) -> Report:
    """Run with these options. Raises `Violation`, also for anything that a node of a cluster stumbles over."""
    command = f".venv/bin/python -m tests.simulation --seed {options.seed}" + (f" --nodes {nodes}" if nodes else "")
    trace = Trace() if trace is None else trace
    cluster = Cluster(options, trace, command)
    try:
        return _run(cluster)
    except Violation:
        raise
    except Exception as error:
        where = {"node": 0, "time_ns": cluster.world.now_ns, "seed": options.seed}
        raise Violation("I0", f"a node failed: {type(error).__name__}: {error}", command=command, **where) from error


def _run(cluster: Cluster) -> Report:
    world, options = cluster.world, cluster.options
    cluster.boot()
    nemesis = Nemesis(cluster)
    while world.now_ns < options.chaos_ns:
        world.step()
    nemesis.stopped = True
    ending = Ending(cluster)
    ending.run()
    for node in cluster.nodes.values():
        if node.up:
            cluster.machines.compare(node.watch, node.group.machine)
    check_histories(cluster)
    counters = Counter(cluster.counters)
    counters.update({f"net_{kind}": count for kind, count in cluster.network.counters.items()})
    return Report(
        options.seed,
        world.events,
        world.now_ns,
        world.trace.digest(),
        cluster.raft.commit_index,
        nemesis.caused,
        counters,
        ending.recovery_ns,
    )
