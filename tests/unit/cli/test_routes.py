"""`zmqbroker route` and `zmqbroker binding` against a broker in memory."""

from __future__ import annotations

import json

import pytest

from tests.unit.cli.fakes import FakeBroker
from zmqbroker.cli.app import run
from zmqbroker.cli.exits import Exit


def test_route_set_list_delete(capsys: pytest.CaptureFixture[str]) -> None:
    broker = FakeBroker()
    for options in ([], [], ["--json"]):
        assert run(["route", "set", "audit", "a;events:b", *options], broker.context) == Exit.DONE
    assert capsys.readouterr().out.splitlines() == [
        "audit: set",
        "audit: it stands for that already",
        '{"route": "audit", "changed": false}',
    ]
    assert run(["route", "list"], broker.context) == Exit.DONE
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["route", "destinations"],
        ["audit", "a;events:b"],
    ]
    assert run(["route", "list", "--json"], broker.context) == Exit.DONE
    assert json.loads(capsys.readouterr().out) == [{"name": "audit", "destinations": "a;events:b"}]
    assert run(["route", "list", "--search", "x"], broker.context) == Exit.DONE
    assert "no routes with 'x' in them" in capsys.readouterr().err
    assert run(["route", "delete", "audit"], broker.context) == Exit.DONE
    assert run(["route", "delete", "audit"], broker.context) == Exit.NOTHING_THERE
    assert run(["route", "list"], broker.context) == Exit.DONE
    out, err = capsys.readouterr()
    assert out == "audit: deleted\n"
    assert err.splitlines() == ["zmqbroker: no route is called 'audit'", "zmqbroker: no routes"]


def test_route_send_says_what_became_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    broker = FakeBroker()
    command = ["route", "send", "a;events:b", "hello", "--id", "i", "--metadata", "m", "--tag", "eu=yes"]
    assert run(command, broker.context) == Exit.DONE
    assert run([*command, "--json"], broker.context) == Exit.DONE
    assert broker.routed[0] == ("a;events:b", b"hello", {"id": "i", "metadata": "m", "tags": {"eu": "yes"}})
    *lines, told = capsys.readouterr().out.splitlines()
    assert lines == ["a: sequence 7", "events:b: published, 2 subscribers known"]
    assert json.loads(told) == [
        {"destination": "a", "sequence": 7, "time_unix_ns": 5, "duplicate": False},
        {"destination": "events:b", "subscribers": 2, "duplicate": False},
    ]


def test_route_send_that_is_refused_ends_as_a_refusal(capsys: pytest.CaptureFixture[str]) -> None:
    broker = FakeBroker()
    assert run(["route", "send", "a;full", "hello"], broker.context) == Exit.REFUSED
    assert run(["route", "send", "full", "hello", "--json"], broker.context) == Exit.REFUSED
    *lines, told = capsys.readouterr().out.splitlines()
    assert lines == ["a: a waits", "full: full waits"]
    assert json.loads(told) == [{"destination": "full", "code": "BUSY", "message": "full waits"}]


def test_binding_set_list_delete(capsys: pytest.CaptureFixture[str]) -> None:
    broker = FakeBroker()
    for options in ([], [], ["--json"]):
        assert run(["binding", "set", "events:a.*", "q;r", *options], broker.context) == Exit.DONE
    assert capsys.readouterr().out.splitlines() == [
        "events:a.*: set",
        "events:a.*: it feeds them already",
        '{"binding": "events:a.*", "changed": false}',
    ]
    assert run(["binding", "list"], broker.context) == Exit.DONE
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows == [["source", "queues", "left", "out"], ["events:a.*", "q;r", "3"]]
    assert run(["binding", "list", "--search", "x"], broker.context) == Exit.DONE
    assert "no bindings with 'x' in them" in capsys.readouterr().err
    assert run(["binding", "delete", "events:a.*"], broker.context) == Exit.DONE
    assert run(["binding", "delete", "events:a.*", "--json"], broker.context) == Exit.NOTHING_THERE
    assert capsys.readouterr().out.splitlines() == ["events:a.*: deleted", '{"binding": "events:a.*", "deleted": false}']
