"""The client that drives Redis in the comparison reads its protocol right, and counts nothing that is not confirmed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.compare.plan import FULL, QUICK, RIVAL_LINES
from bench.compare.report import Suite, summarize, table
from bench.load import BenchError
from bench.peers.redis_load import Pipeline
from bench.peers.redis_server import redis_cluster
from bench.peers.redis_wire import Confirms, Deliveries, RedisConnection, command
from tests.servers import scripted_server

ADDED = b"$15\r\n1700000000000-%d\r\n"
BODY = b":5\r\n"  # looks like a reply


def entry(number: int) -> bytes:
    """One message of a read."""
    return b"*2\r\n$3\r\n7-%d\r\n*2\r\n$1\r\nb\r\n$4\r\n%b\r\n" % (number, BODY)


def read_of(*numbers: int) -> bytes:
    """The reply to a read of the stream q."""
    return b"*1\r\n*2\r\n$1\r\nq\r\n*%d\r\n" % len(numbers) + b"".join(map(entry, numbers))


def test_command_is_an_array_of_bulk_strings() -> None:
    assert command(b"XADD", b"q", b"*", b"b", b"") == b"*5\r\n$4\r\nXADD\r\n$1\r\nq\r\n$1\r\n*\r\n$1\r\nb\r\n$0\r\n\r\n"


def test_burst_is_confirmed_by_the_answer_of_its_wait_however_it_is_split() -> None:
    data = b"".join(ADDED % number for number in range(5)) + b":2\r\n"
    for cut in range(len(data)):
        confirms = Confirms(5)
        assert not confirms.take(data[:cut])
        assert confirms.take(data[cut:])
        assert not confirms.take(data[:-1]), "the next burst begins anew"


def test_burst_that_no_replica_has_ends_the_measurement() -> None:
    with pytest.raises(BenchError, match="no replica"):
        Confirms(1).take(ADDED % 1 + b":0\r\n")


@pytest.mark.parametrize("before", [b"", ADDED % 1], ids=["first", "later"])
def test_burst_with_an_error_ends_the_measurement(before: bytes) -> None:
    with pytest.raises(BenchError, match="OOM command not allowed"):
        Confirms(3).take(before + b"-OOM command not allowed\r\n")


def test_deliveries_are_read_in_order_however_they_are_split() -> None:
    data = read_of(1, 2) + b":2\r\n" + read_of(3) + b"*-1\r\n:1\r\n"
    for cut in range(len(data)):
        deliveries = Deliveries(b"q", len(BODY))
        first, second = deliveries.take(data[:cut]), deliveries.take(data[cut:])
        assert [*first[0], *second[0]] == [b"7-1", b"7-2", b"7-3"]
        assert first[1] + second[1] == 1
        assert deliveries.acked == 3


def test_deliveries_with_an_error_end_the_measurement() -> None:
    with pytest.raises(BenchError, match="NOGROUP"):
        Deliveries(b"q", 1).take(b"-NOGROUP No such key\r\n")


@pytest.fixture
def quiet_server() -> Iterator[int]:
    """A port where somebody listens and says nothing."""
    with scripted_server(b"") as port:
        yield port


def test_pipeline_counts_its_burst_when_a_replica_has_it(quiet_server: int) -> None:
    lane = Pipeline(quiet_server, 3, 4)
    lane.send()
    assert (lane.busy, lane.take(b""), lane.take(ADDED % 1 * 4)) == (True, 0, 0)
    assert (lane.take(b":1\r\n"), lane.busy) == (4, False)
    lane.connection.close()


@pytest.mark.parametrize(("said", "found"), [(b"+OK\r\n", b"OK"), (b":17\r\n", b"17"), (b"$5\r\na\r\nb!\r\n", b"a\r\nb!")])
def test_ask_returns_what_the_reply_holds(said: bytes, found: bytes) -> None:
    with scripted_server(said) as port:
        connection = RedisConnection(port)
        assert connection.ask(b"INFO") == found
        connection.close()


def test_ask_that_is_refused_names_the_command() -> None:
    with scripted_server(b"-ERR unknown\r\n") as port:
        connection = RedisConnection(port)
        with pytest.raises(BenchError, match="Redis refused XGROUP: ERR unknown"):
            connection.ask(b"XGROUP", b"CREATE")
        connection.close()


def test_server_that_does_not_start_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.peers.redis_server.START_TIMEOUT_S", 0)
    with pytest.raises(BenchError, match="did not start"), redis_cluster("true", tmp_path, sync=False):
        pass


def test_rows_and_lines_of_rivals_are_whole() -> None:
    for plan in (FULL, QUICK):
        publishing = [*plan.redis.publishing, plan.redis.single]
        assert {item.row for item in publishing} | {"consume-ack-128B"} == {line.row for line in RIVAL_LINES["redis"]}
        for item in publishing:
            assert not any(count % item.burst for count in (*item.counts, *item.windows))
    assert not any(line.bars for lines in RIVAL_LINES.values() for line in lines)


def test_summary_has_a_line_against_a_rival_only_where_it_was_measured() -> None:
    def suite(side: str, *rates: float) -> Suite:
        ways = {f"way-{rate}": {"messages_per_s": rate, "server_cpu_us_per_message": 2.0} for rate in rates}
        return Suite(round=1, volume="ephemeral", side=side, load_before=0, figures={"batched-128B": ways})

    found = {entry["line"]: entry for entry in summarize([suite("redis", 50, 100), suite("ours", 200)])}
    assert [name for name in found if "÷" in name] == ["batched-128B ÷ redis", "cpu-128B ÷ redis"]
    line = found["batched-128B ÷ redis"]
    assert (line["theirs"], line["ratio"], line["must"], line["met"]) == (100, 2, None, None)
    assert sum("÷ redis" in row for row in table(list(found.values()))) == 2
    assert not any("÷" in entry["line"] for entry in summarize([suite("ours", 200)]))
