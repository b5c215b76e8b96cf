"""The soak runs from end to end, finds every message as it was sent, and its figures are those of their windows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from itertools import islice
from pathlib import Path
from random import Random

import pytest

from bench.load import BenchError
from bench.soak import compare
from bench.soak_samples import Durations, disk_usage, percentiles
from bench.soak_traffic import LATE, NOW, SIZE_MAX, SIZE_MIN, Ledger, Windows, check_body, draw_sends, make_body

ROOT = Path(__file__).resolve().parents[2]


# --- the whole -------------------------------------------------------------------------------------------------------


def test_soak_short_run_finds_everything_and_measures_every_window(tmp_path: Path) -> None:
    out, samples = tmp_path / "result.json", tmp_path / "samples"
    options = {"seconds": 4, "window-s": 2, "rate-bytes": 3_000_000, "late-s": 1, "budget-bytes": 4 << 20, "sample-s": 0.5}
    command = [sys.executable, "-m", "bench.soak", "--directory", str(tmp_path), "--out", str(out), "--samples", str(samples)]
    command += [word for name, value in options.items() for word in (f"--{name}", str(value))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text(encoding="utf-8"))["figures"]
    for channel in found["channels"].values():
        assert channel["sent"] == channel["finished"] > 0
    assert sum(channel["sent_bytes"] for channel in found["channels"].values()) >= 12_000_000
    assert [window["from_s"] for window in found["windows"]] == [0, 2]
    for window in found["windows"]:
        assert 0 < window["sends"]["p50_ms"] <= window["sends"]["p99_ms"] <= window["sends"]["max_ms"]
        assert window["sends"]["count"] > 0
    # Samples are as late as the machine is: what they bring is in some window, not in each.
    for name in ("log_write", "state_flush", "bodies_stored"):
        assert sum(window.get(name, {}).get("count", 0) for window in found["windows"]) > 0, name
    assert max(window["peaks"].get("bodies_bytes", 0) for window in found["windows"]) > 0
    assert found["p99_last_to_first"]["sends"] > 0
    assert {node["snapshots_bytes"] for node in found["after"].values()} == {0}
    lines = [json.loads(line) for line in samples.read_text(encoding="utf-8").splitlines()]
    assert lines[-1]["now_waiting"] == lines[-1]["late_waiting"] == 0
    assert max(line["late_waiting"] for line in lines) > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["result.json", "samples"], "data was left behind"


# --- messages --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 15, 16, 17, 65_536, 1 << 40])
@pytest.mark.parametrize("size", [SIZE_MIN, 4096, SIZE_MAX])
def test_body_has_its_size_and_tells_its_number(number: int, size: int) -> None:
    body = make_body(number, size, 7)
    assert (len(body), check_body(body)) == (size, (number, 7))


@pytest.mark.parametrize("number", [1, 16])
def test_body_with_a_changed_byte_or_another_size_is_found(number: int) -> None:
    body = make_body(number, 1000, 7)
    for bad in (body[:-1] + bytes([body[-1] ^ 1]), body[:-1], body + b"x", body[:500] + b"?!" + body[502:], body[:99], b""):
        with pytest.raises(BenchError, match=r"not as it was sent|which nobody sent"):
            check_body(bad)


def test_body_of_one_message_is_not_that_of_another() -> None:
    one, other = make_body(1, 1000, 7), make_body(2, 1000, 7)
    with pytest.raises(BenchError, match="not as it was sent"):
        check_body(one[:24] + other[24:])


def test_sends_are_spread_over_all_sizes_and_both_channels() -> None:
    sends = list(islice(draw_sends(Random(1)), 4000))
    assert sends == list(islice(draw_sends(Random(1)), 4000))
    alone = [sizes[0] for _, sizes in sends if len(sizes) == 1]
    assert all(SIZE_MIN <= size <= SIZE_MAX for _, sizes in sends for size in sizes)
    decades = Counter(len(str(size)) for size in alone)
    assert all(decades[digits] > 300 for digits in (3, 4, 5, 6))
    assert all(max(sizes) <= 4096 and sum(sizes) < 40_000 for _, sizes in sends if len(sizes) > 1)
    assert sum(len(sizes) > 1 for _, sizes in sends) > 500
    assert 1800 < sum(channel == LATE for channel, _ in sends) < 2200
    assert {channel for channel, _ in sends} == {NOW, LATE}


def test_ledger_forgets_what_is_finished_in_order() -> None:
    ledger = Ledger()
    assert [ledger.send(10) for _ in range(4)] == [1, 2, 3, 4]
    for number in (2, 4, 1):
        ledger.finish(number)
    assert (ledger.low, ledger.ahead, ledger.finished) == (2, {4}, 3)
    ledger.finish(3)
    assert (ledger.low, ledger.ahead) == (4, set())
    assert ledger.summary() == {"sent": 4, "sent_bytes": 40, "finished": 4, "redelivered": 0}


@pytest.mark.parametrize(("number", "message"), [(1, "again"), (3, "again"), (0, "4 were sent"), (5, "4 were sent")])
def test_ledger_message_that_came_again_or_was_never_sent_is_an_error(number: int, message: str) -> None:
    ledger = Ledger(sent=4)
    ledger.finish(1)
    ledger.finish(3)
    with pytest.raises(BenchError, match=message):
        ledger.finish(number)


# --- figures ---------------------------------------------------------------------------------------------------------


def test_windows_have_their_own_percentiles_and_the_last_one_the_rest() -> None:
    windows = Windows(25, 10)
    assert windows.count == 2
    for number in range(100):
        windows.note(number / 10, 0.001)
        windows.note(10 + number / 10, 0.1 if number < 98 else 1.0)
    windows.note(24.9, 1.0)
    first, last = windows.summary(0), windows.summary(1)
    assert (first["count"], last["count"]) == (100, 101)
    assert first["p99_ms"] == first["max_ms"] == pytest.approx(1, rel=0.002)
    assert last["p50_ms"] == pytest.approx(100, rel=0.002)
    assert last["p99_ms"] == pytest.approx(1000, rel=0.002)


def test_windows_of_a_run_shorter_than_one_are_one() -> None:
    windows = Windows(3, 10)
    windows.note(2, 0.0)
    assert (windows.count, windows.summary(0)["count"]) == (1, 1)


def test_percentiles_are_bounds_of_the_buckets_that_hold_them() -> None:
    assert percentiles({}) == {"count": 0, "p50_ms": 0, "p99_ms": 0, "max_ms": 0}
    assert percentiles({7000: 1, 1000: 50, 3000: 49}) == {"count": 100, "p50_ms": 1, "p99_ms": 3, "max_ms": 7}


def test_durations_are_what_was_counted_between_answers_of_each_node() -> None:
    durations = Durations(2)
    answers = [(0, "a", [[10, 5]]), (0, "b", [[10, 1]]), (0, "a", [[10, 7], [20, 1]]), (1, "a", [[10, 7], [20, 2]])]
    for window, node, buckets in answers:
        durations.note(window, node, {"log_write": {"count": 0, "sum_us": 0, "buckets": buckets}})
    durations.note(1, "b", {"log_write": {"buckets": [[10, 1], [30, 2]]}})
    assert durations.summary(0)["log_write"] == {"count": 3, "p50_ms": 0.01, "p99_ms": 0.02, "max_ms": 0.02}
    assert durations.summary(1)["log_write"] == {"count": 3, "p50_ms": 0.03, "p99_ms": 0.03, "max_ms": 0.03}


def test_compare_takes_the_last_window_by_the_first_and_sizes_by_the_middle() -> None:
    windows = [
        {"from_s": 0, "sends": {"p99_ms": 2}, "flush": {"p99_ms": 0}, "peaks": {"log": 10, "snapshots": 0}},
        {"from_s": 1, "sends": {"p99_ms": 9}, "peaks": {"log": 40, "snapshots": 0}},
        {
            "from_s": 2,
            "sends": {"p99_ms": 3},
            "flush": {"p99_ms": 1},
            "moves": {"p99_ms": 1},
            "peaks": {"log": 44, "snapshots": 1},
        },
    ]
    assert compare(windows) == {"p99_last_to_first": {"sends": 1.5}, "peak_last_to_middle": {"log": 1.1}}


def test_disk_usage_counts_blocks_and_files_below_a_directory(tmp_path: Path) -> None:
    assert disk_usage(tmp_path / "absent") == (0, 0)
    (tmp_path / "inner").mkdir()
    for name in ("one", "inner/two"):
        with (tmp_path / name).open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, 64 << 10)
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 30)
    size, count = disk_usage(tmp_path)
    assert (count, 128 << 10 <= size < 1 << 20) == (3, True)
