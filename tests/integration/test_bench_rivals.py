"""The comparison with what else people would pick, against the real servers where they are installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.compare import ours
from bench.compare.plan import QUICK
from bench.peers.rabbitmq_server import find_server as find_rabbitmq
from bench.peers.redis_server import find_server as find_redis
from tests.compare_run import quick_run
from tests.processes import Cluster

pytestmark = pytest.mark.long  # half a minute, mostly of other brokers
needs_redis = pytest.mark.skipif(find_redis() is None, reason="needs redis-server on PATH, which the Debian package brings")

needs_rabbitmq = pytest.mark.skipif(
    find_rabbitmq() is None, reason="needs rabbitmq-server and epmd on PATH, which the Debian package brings"
)


@needs_redis
def test_compare_quick_run_measures_redis_beside_ours(tmp_path: Path) -> None:
    rows = ("batched-128B", "batched-1KiB", "one-at-a-time-1KiB", "consume-ack-128B")
    found, said = quick_run(tmp_path, "--modes", "persistent", "--sides", "redis", "ours", "--rows", *rows)
    redis, own = found["rounds"]
    assert (redis["failure"], own["failure"], list(redis["figures"])) == ("", "", [rows[0], rows[1], rows[2], rows[3]])
    assert list(redis["figures"]["batched-1KiB"]) == ["xadd-1-pipelined", "xadd-3-pipelined"]
    lines = [entry for entry in found["summary"] if entry["against"] == "redis"]
    assert len(lines) == 6
    assert all(entry["theirs"] is not None and entry["must"] is None for entry in lines)
    assert found["redis"].count(".") == 2
    assert "nats" not in found
    assert said.count("÷ redis") == 6


@needs_rabbitmq
def test_compare_quick_run_measures_rabbitmq_beside_ours(tmp_path: Path) -> None:
    rows = ("batched-128B", "one-at-a-time-1KiB", "consume-ack-128B")
    found, _ = quick_run(tmp_path, "--sides", "rabbitmq", "--rows", *rows)
    (rabbitmq,) = found["rounds"]
    assert (rabbitmq["volume"], rabbitmq["failure"], list(rabbitmq["figures"])) == ("persistent", "", [*rows])
    assert all(figures["messages_per_s"] > 0 for ways in rabbitmq["figures"].values() for figures in ways.values())
    assert found["rabbitmq"].count(".") == 2


def test_compare_without_redis_says_so_and_measures_the_rest(tmp_path: Path) -> None:
    found, said = quick_run(
        tmp_path, "--modes", "ephemeral", "--sides", "redis", "ours", "--rows", "batched-128B", without=["redis"]
    )
    assert "no redis-server" in found["redis"]
    assert [(suite["side"], suite["failure"]) for suite in found["rounds"]] == [("ours", "")]
    assert "÷ redis" not in said


def test_compare_quick_run_measures_our_python_nodes_beside_the_compiled_ones(tmp_path: Path) -> None:
    rows = ("batched-128B", "batched-1KiB", "unbatched-128B")
    found, _ = quick_run(tmp_path, "--modes", "ephemeral", "--sides", "ours", "pure", "--rows", *rows)
    compiled, pure = found["rounds"]
    assert (compiled["failure"], pure["failure"]) == ("", "")
    assert (list(compiled["figures"]), list(pure["figures"])) == ([*rows], [rows[0], rows[2]])
    lines = [entry["line"] for entry in found["summary"] if entry["against"] == "pure"]
    assert lines == ["batched-128B ÷ pure", "unbatched-128B ÷ pure", "cpu-128B ÷ pure"]


@pytest.mark.parametrize("pure", [False, True])
def test_nodes_are_told_whether_to_use_nothing_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pure: bool) -> None:
    found: list[str | None] = []

    def measure(_plan: object, _rows: object, _rate: int, cluster: Cluster) -> dict[str, object]:
        found.extend(node.environment.get("ZMQBROKER_PURE") for node in cluster.nodes.values())
        return {}

    monkeypatch.setattr(ours, "_measure_all", measure)
    if pure:
        ours.measure_pure(QUICK, "ephemeral", ["batched-128B"], tmp_path)
    else:
        ours.measure_ours(QUICK, "ephemeral", ["batched-128B"], 0, tmp_path)
    assert found == ["1" if pure else None] * 3
