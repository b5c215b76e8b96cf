"""The comparison with what else people would pick, against the real servers where they are installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.peers.redis_server import find_server as find_redis
from tests.compare_run import quick_run

needs_redis = pytest.mark.skipif(find_redis() is None, reason="needs redis-server on PATH, which the Debian package brings")


@needs_redis
def test_compare_quick_run_measures_redis_beside_ours(tmp_path: Path) -> None:
    rows = ("batched-128B", "batched-1KiB", "one-at-a-time-1KiB", "consume-ack-128B")
    found, said = quick_run(tmp_path, "--modes", "persistent", "--sides", "redis", "ours", "--rows", *rows)
    redis, ours = found["rounds"]
    assert (redis["failure"], ours["failure"], list(redis["figures"])) == ("", "", [rows[0], rows[1], rows[2], rows[3]])
    assert list(redis["figures"]["batched-1KiB"]) == ["xadd-1-pipelined", "xadd-3-pipelined"]
    lines = [entry for entry in found["summary"] if entry["against"] == "redis"]
    assert len(lines) == 6
    assert all(entry["theirs"] is not None and entry["must"] is None for entry in lines)
    assert found["redis"].count(".") == 2
    assert "nats" not in found
    assert said.count("÷ redis") == 6


def test_compare_without_redis_says_so_and_measures_the_rest(tmp_path: Path) -> None:
    found, said = quick_run(
        tmp_path, "--modes", "ephemeral", "--sides", "redis", "ours", "--rows", "batched-128B", without=["redis"]
    )
    assert "no redis-server" in found["redis"]
    assert [(suite["side"], suite["failure"]) for suite in found["rounds"]] == [("ours", "")]
    assert "÷ redis" not in said
