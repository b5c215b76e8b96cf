"""`zmqbroker channel`: what is created, changed, deleted, listed and described."""

from __future__ import annotations

import io
import json
import re

import pytest

from tests.unit.cli.fakes import FakeBroker
from zmqbroker.cli.app import run
from zmqbroker.cli.exits import Exit
from zmqbroker.cli.settings import DEFAULTS
from zmqbroker.errors import NoMajority

ALL = (
    "the settings are delivery_limit, dead_letter, delay_ms, expiry_ms, max_messages, max_bytes, overflow, max_in_flight, "
    "dedup_window_ms, single_active, max_age_ms, keep_latest"
)


def settings(*pairs: str) -> list[str]:
    """--set for each."""
    return [word for pair in pairs for word in ("--set", pair)]


def at_terminal(monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    """Somebody is at the terminal and answers so."""
    typed = io.StringIO(answer)
    monkeypatch.setattr(typed, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdin", typed)


def test_create_with_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    broker = FakeBroker()
    pairs = [
        "delivery_limit=5",
        "dead_letter=orders.dead",
        "delay_ms=100",
        "expiry_ms=1_000",
        "max_messages=1000",
        "max_bytes=1048576",
        "overflow=dead_letter",
        "max_in_flight=7",
        "dedup_window_ms=60000",
        "single_active=true",
        "max_age_ms=86400000",
    ]
    assert run(["channel", "create", "orders", *settings(*pairs)], broker.context) == Exit.DONE
    assert capsys.readouterr().out == "orders: created\n"
    assert broker.settings == {
        "orders": {
            "delivery_limit": 5,
            "dead_letter": "orders.dead",
            "delay_ms": 100,
            "expiry_ms": 1_000,
            "max_messages": 1_000,
            "max_bytes": 1 << 20,
            "overflow": "dead_letter",
            "max_in_flight": 7,
            "dedup_window_ms": 60_000,
            "single_active": True,
            "max_age_ms": 86_400_000,
        }
    }
    assert {*broker.settings["orders"], "keep_latest"} == set(DEFAULTS), "every setting of a queue has its value here"


def test_create_a_store_with_its_settings_and_no_others(capsys: pytest.CaptureFixture[str]) -> None:
    broker = FakeBroker()
    assert run(["channel", "create", "events_store:s", *settings("keep_latest=true", "max_messages=5")], broker.context) == 0
    assert broker.settings == {"events_store:s": {"keep_latest": True, "max_messages": 5}}
    assert run(["channel", "create", "events_store:t", *settings("delay_ms=5")], broker.context) == Exit.USAGE
    assert "setting delay_ms is 5, and an events store has no such setting" in capsys.readouterr().err


def test_create_again_is_fine_and_with_others_refused(capsys: pytest.CaptureFixture[str]) -> None:
    broker = FakeBroker()
    command = ["channel", "create", "orders", "--set", "delay_ms=5"]
    assert run([*command, "--json"], broker.context) == Exit.DONE
    told = json.loads(capsys.readouterr().out)
    assert told == {"channel": "orders", "created": True, "settings": {**DEFAULTS, "delay_ms": 5}}
    assert run(command, broker.context) == Exit.DONE
    assert capsys.readouterr().out == "orders: it is there already, with these settings\n"
    assert run([*command, "--json"], broker.context) == Exit.DONE
    assert json.loads(capsys.readouterr().out)["created"] is False
    assert run(["channel", "create", "orders"], broker.context) == Exit.REFUSED
    assert "with other settings" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["create", "update"])
def test_settings_that_are_wrong_are_all_named_before_anybody_is_asked(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    broker = FakeBroker()
    pairs = [
        "dealy_ms=5",
        "max_bytes=-1",
        "delay_ms=soon",
        "overflow=burst",
        "single_active=perhaps",
        "dead_letter=a b",
        "equals",
        "expiry_ms=1",
        "expiry_ms=2",
    ]
    assert run(["channel", command, "orders", *settings(*pairs)], broker.context) == Exit.USAGE
    assert capsys.readouterr().err.splitlines() == [
        "zmqbroker: 'equals' is not KEY=VALUE",
        "zmqbroker: setting expiry_ms is given twice",
        "zmqbroker: setting 'dealy_ms' is not known",
        "zmqbroker: field max_bytes is -1, allowed is 0 to 18446744073709551615",
        "zmqbroker: field delay_ms must be an integer: 'soon'",
        "zmqbroker: setting overflow is 'burst', it must be one of reject, drop_oldest, dead_letter",
        "zmqbroker: field single_active must be true or false: 'perhaps'",
        "zmqbroker: setting dead_letter: channel name 'a b' holds white space or a control character, ' '",
        f"zmqbroker: {ALL}",
    ]
    assert broker.urls == []


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        (["overflow=dead_letter"], "setting overflow is 'dead_letter' and setting dead_letter names no channel"),
        (["dead_letter=orders"], "setting dead_letter is 'orders', which is the channel itself"),
    ],
)
def test_create_settings_that_do_not_go_together(pairs: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["channel", "create", "orders", *settings(*pairs)], FakeBroker().context) == Exit.USAGE
    assert capsys.readouterr().err == f"zmqbroker: {said}\n"


def test_update_changes_these_and_keeps_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    broker = FakeBroker()
    broker.settings["orders"] = {"delay_ms": 5, "dead_letter": "dead", "max_messages": 3}
    command = ["channel", "update", "orders", *settings("delay_ms=0", "dead_letter=", "max_bytes=9")]
    assert run(command, broker.context) == Exit.DONE
    assert capsys.readouterr().out == "orders: changed\n"
    assert broker.settings["orders"] == {"max_messages": 3, "max_bytes": 9}
    assert run(command, broker.context) == Exit.DONE
    assert capsys.readouterr().out == "orders: it was so already\n"
    assert run([*command, "--json"], broker.context) == Exit.DONE
    assert json.loads(capsys.readouterr().out) == {"channel": "orders", "changed": False}


def test_update_without_a_change_or_a_channel(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["channel", "update", "orders"], FakeBroker().context) == Exit.USAGE
    assert "say what to change, with --set KEY=VALUE" in capsys.readouterr().err
    assert run(["channel", "update", "orders", "--set", "delay_ms=1"], FakeBroker().context) == Exit.NOTHING_THERE


def test_delete_without_a_terminal_needs_yes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    broker = FakeBroker()
    broker.settings["orders"] = {}
    assert run(["channel", "delete", "orders"], broker.context) == Exit.USAGE
    assert "give --yes" in capsys.readouterr().err
    assert "orders" in broker.settings
    assert run(["channel", "delete", "orders", "--yes", "--json"], broker.context) == Exit.DONE
    assert json.loads(capsys.readouterr().out) == {"channel": "orders", "deleted": True}
    assert broker.settings == {}
    assert run(["channel", "delete", "orders", "--yes"], broker.context) == Exit.NOTHING_THERE


@pytest.mark.parametrize(
    ("answer", "status", "left"), [("y\n", Exit.DONE, 0), ("n\n", Exit.INTERRUPTED, 1), ("\n", Exit.INTERRUPTED, 1)]
)
def test_delete_at_a_terminal_asks_and_says_what_is_in_it(
    answer: str, status: Exit, left: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broker = FakeBroker()
    run(["queue", "send", "orders", "a", "b"], broker.context)
    capsys.readouterr()
    at_terminal(monkeypatch, answer)
    assert run(["channel", "delete", "orders"], broker.context) == status
    captured = capsys.readouterr()
    assert "Delete orders with its 2 messages? [y/N]" in captured.err
    assert captured.out == ("orders: deleted\n" if status == Exit.DONE else "")
    assert len(broker.settings) == left


def test_list_shows_a_row_for_each_that_fits_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    broker = FakeBroker()
    run(["queue", "send", "orders.new", "a"], broker.context)
    broker.settings["orders.dead"] = {"delay_ms": 5}
    broker.settings["bills"] = {}
    capsys.readouterr()
    assert run(["channel", "list", "--search", "orders"], broker.context) == Exit.DONE
    lines = capsys.readouterr().out.splitlines()
    assert [re.split(r"\s{2,}", line.strip()) for line in lines] == [
        ["channel", "ready", "in flight", "delayed", "dead-lettered", "size", "oldest (UTC)"],
        ["orders.dead", "0", "0", "0", "0", "2.5 KiB", "-"],
        ["orders.new", "1", "0", "0", "0", "2.5 KiB", "2023-11-14 22:13:20"],
    ]
    assert max(map(len, lines)) <= 100


def test_list_as_json_is_one_exact_document(capsys: pytest.CaptureFixture[str]) -> None:
    broker = FakeBroker()
    assert run(["channel", "list", "--json"], broker.context) == Exit.DONE
    assert json.loads(capsys.readouterr().out) == []
    broker.settings.update(b={"delay_ms": 5}, a={})
    assert run(["channel", "list", "--json"], broker.context) == Exit.DONE
    first, second = json.loads(capsys.readouterr().out)
    assert (first["channel"], first["settings"], first["size_bytes"]) == ("a", DEFAULTS, 2_560)
    assert (second["channel"], second["settings"]) == ("b", {**DEFAULTS, "delay_ms": 5})


@pytest.mark.parametrize(
    ("options", "said"), [([], "no channels"), (["--search", "x y"], "no channels with 'x y' in their names")]
)
def test_list_of_nothing_says_so(options: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["channel", "list", *options], FakeBroker().context) == Exit.DONE
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", f"zmqbroker: {said}\n")


def test_describe_shows_counters_and_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    broker = FakeBroker()
    broker.settings["orders"] = {"delay_ms": 90_000, "max_bytes": 5 << 20, "dead_letter": "dead", "max_messages": 12}
    assert run(["channel", "describe", "orders"], broker.context) == Exit.DONE
    rows = [re.split(r"\s{2,}", line.strip()) for line in capsys.readouterr().out.splitlines()]
    assert rows[rows.index([""]) + 1 :] == [
        ["setting", "value"],
        ["delivery_limit", "-"],
        ["dead_letter", "dead"],
        ["delay_ms", "1 min 30 s"],
        ["expiry_ms", "-"],
        ["max_messages", "12"],
        ["max_bytes", "5 MiB"],
        ["overflow", "reject"],
        ["max_in_flight", "-"],
        ["dedup_window_ms", "-"],
        ["single_active", "-"],
        ["max_age_ms", "-"],
        ["keep_latest", "-"],
    ]
    assert ["size", "2.5 KiB"] in rows
    assert ["oldest (UTC)", "-"] in rows
    assert run(["channel", "describe", "orders", "--json"], broker.context) == Exit.DONE
    told = json.loads(capsys.readouterr().out)
    assert (told["oldest_unix_ns"], told["settings"]["delay_ms"], told["settings"]["overflow"]) == (0, 90_000, "reject")
    assert run(["channel", "describe", "nobody"], broker.context) == Exit.NOTHING_THERE


def test_describe_by_a_node_that_knows_more_settings_or_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broker = FakeBroker()
    monkeypatch.setattr(broker, "described", lambda name: {"channel": name, "settings": {"compress": True}})
    assert run(["channel", "describe", "orders"], broker.context) == Exit.DONE
    assert re.search(r"compress +true", capsys.readouterr().out)
    monkeypatch.setattr(broker, "described", lambda name: {"channel": name})
    assert run(["channel", "describe", "orders", "--json"], broker.context) == Exit.DONE
    assert json.loads(capsys.readouterr().out)["settings"] == DEFAULTS


def test_create_that_fails_ends_with_the_error(capsys: pytest.CaptureFixture[str]) -> None:
    broker = FakeBroker()
    broker.failure = NoMajority("too few nodes")
    assert run(["channel", "create", "orders", "--timeout-ms", "900", "--url", "tcp://h:1"], broker.context) == Exit.UNREACHABLE
    assert (broker.urls, broker.open_clients) == ([("tcp://h:1", 900)], 0)
