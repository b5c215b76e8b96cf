"""`zmqbroker schedule` and `zmqbroker channel defaults` against a broker in memory."""

from __future__ import annotations

import json

import pytest

from tests.unit.cli.fakes import FakeBroker
from zmqbroker.cli.app import run
from zmqbroker.cli.exits import Exit


def test_schedule_create_list_delete(capsys: pytest.CaptureFixture[str]) -> None:
    broker = FakeBroker()
    nightly = ["schedule", "create", "nightly", "orders", "go", "--cron", "0 3 * * *"]
    assert run(nightly, broker.context) == Exit.DONE
    assert run(nightly, broker.context) == Exit.DONE
    beat = [
        "schedule",
        "create",
        "beat",
        "q",
        "x",
        "--every-ms",
        "5000",
        "--delay-ms",
        "7",
        "--times",
        "2",
        "--id",
        "i",
        "--json",
    ]
    assert run(beat, broker.context) == Exit.DONE
    first, second, third = capsys.readouterr().out.splitlines()
    assert (first, second) == ("nightly: created", "nightly: it is there already, and says the same")
    assert json.loads(third) == {"schedule": "beat", "created": True}
    said = {"channel": "q", "body": b"x", "cron": "", "every_ms": 5000, "delay_ms": 7, "times": 2, "id": "i"}
    assert broker.schedules["beat"] == said
    assert run(["schedule", "list"], broker.context) == Exit.DONE
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[0] == ["schedule", "channel", "when", "next", "(UTC)", "left", "sent", "skipped"]
    assert rows[1] == ["beat", "q", "every", "5", "s", "ended", "0", "7", "1"]
    assert rows[2][:7] == ["nightly", "orders", "0", "3", "*", "*", "*"]
    assert run(["schedule", "list", "--search", "night", "--json"], broker.context) == Exit.DONE
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == ["nightly"]
    assert run(["schedule", "delete", "beat"], broker.context) == Exit.DONE
    assert run(["schedule", "delete", "nightly", "--json"], broker.context) == Exit.DONE
    assert capsys.readouterr().out == 'beat: deleted\n{"schedule": "nightly", "deleted": true}\n'
    assert run(["schedule", "delete", "beat"], broker.context) == Exit.NOTHING_THERE
    assert run(["schedule", "list"], broker.context) == Exit.DONE
    assert run(["schedule", "list", "--search", "x"], broker.context) == Exit.DONE
    assert "no schedules with 'x' in their names" in capsys.readouterr().err


def test_defaults_set_list_delete(capsys: pytest.CaptureFixture[str]) -> None:
    broker = FakeBroker()
    command = ["channel", "defaults", "set", "orders.>", "--set", "delay_ms=5000", "--set", "create_on_use=false"]
    assert run(command, broker.context) == Exit.DONE
    assert run(command, broker.context) == Exit.DONE
    assert capsys.readouterr().out.splitlines() == ["orders.>: set", "orders.>: it was so already"]
    assert broker.defaults == {"orders.>": {"delay_ms": 5000, "create_on_use": False}}
    assert run(["channel", "defaults", "set", "a", "--set", "max_bytes=7", "--json"], broker.context) == Exit.DONE
    assert json.loads(capsys.readouterr().out) == {"pattern": "a", "changed": True, "settings": {"max_bytes": 7}}
    assert run(["channel", "defaults", "list"], broker.context) == Exit.DONE
    rows = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert [[one, rest.strip()] for one, rest in rows] == [
        ["pattern", "settings"],
        ["a", "max_bytes 7 B"],
        ["orders.>", "delay_ms 5 s, create_on_use false"],
    ]
    assert run(["channel", "defaults", "list", "--json"], broker.context) == Exit.DONE
    assert json.loads(capsys.readouterr().out) == broker.defaults
    for _ in range(2):
        assert run(["channel", "defaults", "delete", "a"], broker.context) == Exit.DONE
    assert run(["channel", "defaults", "delete", "orders.>", "--json"], broker.context) == Exit.DONE
    assert capsys.readouterr().out.splitlines() == [
        *("a: deleted", "a: nothing was said of it"),
        '{"pattern": "orders.>", "deleted": true}',
    ]
    assert run(["channel", "defaults", "list"], broker.context) == Exit.DONE
    assert capsys.readouterr().err == "zmqbroker: no defaults\n"


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        ([], "Missing option '--set'"),
        (["--set", "colour=1"], "setting 'colour' is not known"),
        (["--set", "delay_ms=x"], "field delay_ms must be an integer: 'x'"),
        (["--set", "create_on_use=maybe"], "create_on_use is 'maybe', it must be true or false"),
        (["--set", "create_on_use=true", "--set", "create_on_use=true"], "said once"),
    ],
)
def test_defaults_that_are_wrong_are_refused_and_nobody_is_asked(
    pairs: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    broker = FakeBroker()
    assert run(["channel", "defaults", "set", "a", *pairs], broker.context) == Exit.USAGE
    assert said in capsys.readouterr().err
    assert broker.urls == []
