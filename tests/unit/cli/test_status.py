"""`zmqbroker status`: rows for every member, the sizes of the reference, and its exit statuses."""

from __future__ import annotations

import json

import pytest

from tests.unit.cli.fakes import FakeBroker, node_fields
from zmqbroker.cli.app import run
from zmqbroker.cli.exits import Exit

URL = "tcp://127.0.0.1:5590"


def test_status_all_nodes_up_shows_each_with_role_and_progress(capsys: pytest.CaptureFixture[str]) -> None:
    broker = FakeBroker()
    broker.start(3)
    assert run(["status", "--url", URL, "--timeout-ms", "700"], broker.context) == Exit.DONE
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[:4]] == [
        ["node", "clients", "role", "term", "commit", "applied", "free", "MiB"],
        ["node-1", "tcp://127.0.0.1:5590", "leader", "3", "40", "39", "5120"],
        ["node-2", "tcp://127.0.0.1:5593", "follower", "3", "40", "39", "5120"],
        ["node-3", "tcp://127.0.0.1:5596", "follower", "3", "40", "39", "5120"],
    ]
    assert lines[4] == "3 nodes, majority 2, tolerates 1 down, volume ephemeral (confirms quorum)"
    assert broker.urls[0] == (URL, 700)
    assert broker.open_clients == 0


@pytest.mark.parametrize(
    ("size", "majority", "tolerated"),
    [(1, 1, 0), (2, 2, 0), (3, 2, 1), (4, 3, 1), (5, 3, 2), (6, 4, 2), (7, 4, 3), (8, 5, 3), (9, 5, 4)],
)
def test_status_tolerated_nodes_down_still_has_a_majority_and_one_more_has_none(
    size: int, majority: int, tolerated: int, capsys: pytest.CaptureFixture[str]
) -> None:
    broker = FakeBroker()
    broker.start(size, down=range(size - tolerated, size))
    assert run(["status", "--url", URL], broker.context) == Exit.DONE
    assert f"{size} nodes, majority {majority}, tolerates {tolerated} down," in capsys.readouterr().out
    if size == 1:
        return
    broker = FakeBroker()
    broker.start(size, down=range(size - tolerated - 1, size))
    assert run(["status", "--url", URL], broker.context) == Exit.UNREACHABLE
    captured = capsys.readouterr()
    assert captured.out.count("unreachable") == tolerated + 1
    assert f"no majority: {size - tolerated - 1} of {size} nodes answer" in captured.err


def test_status_learners_are_shown_and_count_for_no_majority(capsys: pytest.CaptureFixture[str]) -> None:
    broker = FakeBroker()
    broker.start(3, down=[1])
    for fields in broker.nodes.values():
        fields["members"][2] |= {"voter": False, "joining": True}
    assert run(["status", "--url", URL], broker.context) == Exit.UNREACHABLE
    captured = capsys.readouterr()
    assert captured.out.splitlines()[3].split()[2] == "learner"
    assert "no majority: 1 of 3 nodes answer" in captured.err


def test_status_says_what_should_be_known_of_the_data(capsys: pytest.CaptureFixture[str]) -> None:
    broker = FakeBroker()
    broker.start(3)
    first, second, third = broker.nodes.values()
    first["data"] = {"recovering": None, "may_have_lost_since_unix_ns": 1_700_000_000 * 10**9, "stale": []}
    second["data"] = {"recovering": "log/1.segment is damaged", "may_have_lost_since_unix_ns": None, "stale": []}
    second["groups"] = []
    third["data"] = {"recovering": None, "may_have_lost_since_unix_ns": None, "stale": ["stale-1", "stale-2"]}
    assert run(["status", "--url", URL], broker.context) == Exit.DONE
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split()[2] == "recovering"
    assert lines[5:] == [
        "node-1 may have lost writes since 2023-11-14 22:13:20 UTC: its machine died",
        "node-2 is recovering: log/1.segment is damaged",
        "node-3 has moved old data aside: stale-1, stale-2",
    ]
    assert run(["status", "--url", URL, "--json"], broker.context) == Exit.DONE
    found = json.loads(capsys.readouterr().out)
    assert (found["reachable"], found["nodes"][1]["recovering"]) == (2, "log/1.segment is damaged")


def test_status_json_has_cluster_nodes_and_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    broker = FakeBroker()
    broker.start(3, down=[1])
    assert run(["status", "--url", URL, "--json"], broker.context) == Exit.DONE
    found = json.loads(capsys.readouterr().out)
    assert found["cluster"]["majority"] == 2
    assert (found["reachable"], found["leader"], found["has_majority"]) == (2, "node-1", True)
    assert [(row["name"], row["role"]) for row in found["nodes"]] == [
        ("node-1", "leader"),
        ("node-2", "unreachable"),
        ("node-3", "follower"),
    ]


def test_status_no_leader_ends_with_unreachable(capsys: pytest.CaptureFixture[str]) -> None:
    broker = FakeBroker()
    broker.start(3, leader=None)
    assert run(["status", "--url", URL], broker.context) == Exit.UNREACHABLE
    assert "3 of 3 nodes answer, leader unknown" in capsys.readouterr().err


def test_status_two_leaders_the_higher_term_counts(capsys: pytest.CaptureFixture[str]) -> None:
    broker, names = FakeBroker(), ["node-1", "node-2"]
    broker.nodes["tcp://127.0.0.1:5590"] = node_fields("node-1", names, role="leader", leader="node-1", term=3)
    broker.nodes["tcp://127.0.0.1:5593"] = node_fields("node-2", names, role="leader", leader="node-2", term=4)
    assert run(["status", "--url", URL, "--json"], broker.context) == Exit.DONE
    assert json.loads(capsys.readouterr().out)["leader"] == "node-2"


def test_status_nobody_answers_ends_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["status", "--url", URL], FakeBroker().context) == Exit.UNREACHABLE
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", f"zmqbroker: no answer from {URL}\n")


def test_status_endpoint_of_another_node_counts_as_unreachable(capsys: pytest.CaptureFixture[str]) -> None:
    broker = FakeBroker()
    broker.start(3)
    broker.nodes["tcp://127.0.0.1:5593"] = node_fields("stranger", ["stranger"])
    assert run(["status", "--url", URL, "--json"], broker.context) == Exit.DONE
    assert json.loads(capsys.readouterr().out)["reachable"] == 2


def test_status_forming_cluster_shows_what_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    broker = FakeBroker()
    fields = node_fields("node-1", ["node-1", "node-2"])
    fields["groups"] = []
    fields["members"][1]["client"] = ""
    broker.nodes[URL] = fields
    assert run(["status", "--url", URL], broker.context) == Exit.UNREACHABLE
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[1][2] == "forming"
    assert rows[2] == ["node-2", "unreachable", "0", "0", "0", "-"]


@pytest.mark.parametrize(("as_json", "said"), [(False, "node-1 answers"), (True, '"name": "node-1"')])
def test_status_alive_asks_one_node_only(as_json: bool, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    broker = FakeBroker()
    broker.start(3, down=[1, 2])
    assert run(["status", "--alive", "--url", URL, *(["--json"] if as_json else [])], broker.context) == Exit.DONE
    assert said in capsys.readouterr().out
    assert len(broker.urls) == 1


def test_status_refused_sends_say_whose_disk_has_no_room(capsys: pytest.CaptureFixture[str]) -> None:
    broker = FakeBroker()
    broker.start(3)
    leader = broker.nodes[URL]
    leader["groups"][0]["sends_refused_by"] = ["node-2", "node-3"]
    leader["disk"] |= {"slow": True, "free_bytes": 3 << 20}
    assert run(["status", "--url", URL], broker.context) == Exit.DONE
    captured = capsys.readouterr()
    assert captured.out.splitlines()[1].split()[-1] == "3"
    assert "sends are refused: no room on the disk of node-2, node-3" in captured.err
    assert run(["status", "--url", URL, "--json"], broker.context) == Exit.DONE
    found = json.loads(capsys.readouterr().out)
    assert found["sends_refused_by"] == ["node-2", "node-3"]
    assert (found["nodes"][0]["slow_disk"], found["nodes"][0]["free_bytes"]) == (True, 3 << 20)
    assert found["nodes"][1]["low_water_bytes"] == 1 << 30


def test_status_node_of_a_version_without_disk_reports_is_shown_all_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    broker = FakeBroker()
    broker.start(1)
    del broker.nodes[URL]["disk"], broker.nodes[URL]["groups"][0]["sends_refused_by"]
    assert run(["status", "--url", URL], broker.context) == Exit.DONE
    assert capsys.readouterr().out.splitlines()[1].split()[-1] == "-"
