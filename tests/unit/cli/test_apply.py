"""`zmqbroker apply` and `export`: what a file makes of the channels, what it must not, and that the two fit together."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.unit.cli.fakes import FakeBroker
from zmqbroker.cli.app import run
from zmqbroker.cli.exits import Exit
from zmqbroker.errors import NoMajority

FILE = """
[channels."orders"]
delivery_limit = 5
dead_letter = "orders.dead"
max_bytes = 10_000_000

[channels.bills]
delay_ms = 90_000

[channels.plain]
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "channels.toml"
    file.write_text(FILE, encoding="utf-8")
    return file


def broker_with_channels() -> FakeBroker:
    """One channel of the file with other settings, one as it says, one that it does not name."""
    broker = FakeBroker()
    broker.settings["bills"] = {"delay_ms": 60_000, "max_in_flight": 3}
    broker.settings["plain"] = {}
    broker.settings["other"] = {"delay_ms": 1}
    return broker


def test_apply_creates_updates_and_leaves_alone(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broker = broker_with_channels()
    assert run(["apply", str(path)], broker.context) == Exit.DONE
    assert capsys.readouterr().out.splitlines() == [
        "orders: created, delivery_limit 5, dead_letter orders.dead, max_bytes 10,000,000 B",
        "bills: updated, delay_ms 1 min → 1 min 30 s, max_in_flight 3 → -",
        "plain: unchanged",
    ]
    assert broker.settings == {
        "orders": {"delivery_limit": 5, "dead_letter": "orders.dead", "max_bytes": 10_000_000},
        "bills": {"delay_ms": 90_000},
        "plain": {},
        "other": {"delay_ms": 1},
    }
    assert run(["apply", str(path)], broker.context) == Exit.DONE
    assert capsys.readouterr().out.splitlines() == ["orders: unchanged", "bills: unchanged", "plain: unchanged"]


def test_apply_dry_run_says_the_same_and_does_nothing(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broker = broker_with_channels()
    before = dict(broker.settings)
    assert run(["apply", str(path), "--dry-run"], broker.context) == Exit.DONE
    assert capsys.readouterr().out.splitlines() == [
        "orders: would be created, delivery_limit 5, dead_letter orders.dead, max_bytes 10,000,000 B",
        "bills: would be updated, delay_ms 1 min → 1 min 30 s, max_in_flight 3 → -",
        "plain: unchanged",
    ]
    assert broker.settings == before


def test_apply_as_json_is_one_document(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["apply", str(path), "--json", "--dry-run"], broker_with_channels().context) == Exit.DONE
    told = json.loads(capsys.readouterr().out)
    assert told["dry_run"] is True
    assert [(row["channel"], row["action"]) for row in told["channels"]] == [
        ("orders", "created"),
        ("bills", "updated"),
        ("plain", "unchanged"),
    ]
    assert told["channels"][1]["changes"] == {"delay_ms": {"from": 60_000, "to": 90_000}, "max_in_flight": {"from": 3, "to": 0}}


@pytest.mark.parametrize("as_json", [False, True])
def test_apply_that_fails_half_way_tells_what_was_done(
    as_json: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broker = broker_with_channels()
    broker.failure = NoMajority("too few nodes")  # of creating
    file = tmp_path / "channels.toml"
    file.write_text("[channels.bills]\n[channels.new]\n[channels.plain]\n")
    assert run(["apply", str(file), *["--json"] * as_json], broker.context) == Exit.UNREACHABLE
    captured = capsys.readouterr()
    assert captured.err == "zmqbroker: too few nodes\n"
    if as_json:
        assert [row["channel"] for row in json.loads(captured.out)["channels"]] == ["bills"]
    else:
        assert captured.out == "bills: updated, delay_ms 1 min → -, max_in_flight 3 → -\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"[channels", ["is not TOML"]),
        (b"\xff", ["is not TOML"]),
        (b"a = " + b"9" * 5000, ["is not TOML"]),
        (b"a = " + b"[" * 50_000, ["is not TOML"]),
        (b"channels = 5", ["channels must be tables; there are only tables"]),
        (b"defaults = 5", ["defaults must be tables; there are only tables"]),
        (b"[defaults]\na = 1", ["defaults 'a' must be a table"]),
        (
            b'[defaults."a*"]\ndealy_ms = 1',
            ["pattern 'a*': * is a whole token", "setting 'dealy_ms' is not known"],
        ),
        (b'[defaults."a"]\ncreate_on_use = 1', ["create_on_use must be true or false: 1"]),
        (b"[queues.a]", ["'queues' is not known"]),
        (b"routes = 5\nbindings = 5", ["routes must be tables", "bindings must be tables"]),
        (b"[routes]\n'a b' = 'c'", ["route name 'a b' holds white space"]),
        (b"[routes]\na = 5", ["routes: 'a' must be a text with a list of destinations: 5"]),
        (b"[routes]\na = 'b;routes:c'", ["routes: 'a': destination 2 of 2, 'routes:c', is one of routes"]),
        (b"[bindings]\na = 'events:c'", ["source 'a' must begin with events:", "bindings: 'a': destination 1 of 1"]),
        (b"[channels]\na = 1", ["channel 'a' must be a table"]),
        (b'[channels."a b"]', ["channel name 'a b' holds white space"]),
        (b"[channels.a]\ndealy_ms = 1", ["channel 'a': setting 'dealy_ms' is not known", "the settings are delivery_limit"]),
        (b"[channels.a]\ndelay_ms = 1.5", ["field delay_ms must be an integer: 1.5"]),
        (b"[channels.a]\ndelay_ms = true", ["field delay_ms must be an integer: True"]),
        (b"[channels.a]\ndelay_ms = 2026-01-01", ["field delay_ms must be an integer"]),
        (b"[channels.a]\noverflow = 'dead_letter'", ["channel 'a': setting overflow is 'dead_letter' and"]),
        (b"[channels.a]\ndead_letter = 'a'", ["channel 'a': setting dead_letter is 'a', which is the channel itself"]),
        (
            b"[channels.a]\ndelay_ms = -1\n[channels.b]\nmax_bytes = ''",
            ["field delay_ms is -1", "field max_bytes must be an integer"],
        ),
    ],
)
def test_apply_of_a_file_with_faults_names_them_all_and_asks_nobody(
    text: bytes, said: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broker = FakeBroker()
    file = tmp_path / "channels.toml"
    file.write_bytes(text)
    assert run(["apply", str(file)], broker.context) == Exit.USAGE
    told = capsys.readouterr().err
    assert [fault for fault in said if fault not in told] == []
    assert all(line.startswith(f"zmqbroker: {file}") for line in told.splitlines())
    assert broker.urls == []


def test_apply_of_no_file_is_wrong_usage(tmp_path: Path) -> None:
    assert run(["apply", str(tmp_path / "none.toml")], FakeBroker().context) == Exit.USAGE


def test_export_and_apply_make_the_same_channels_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broker = FakeBroker()
    broker.settings['quote"back\\slash'] = {"dead_letter": 'dead"', "overflow": "dead_letter", "max_bytes": 1 << 63}
    broker.settings["zwölf.{tag}"] = {}
    broker.settings["#[x]"] = {"delay_ms": 1}
    assert run(["export"], broker.context) == Exit.DONE
    text = capsys.readouterr().out
    assert run(["export", "--search", "zw"], broker.context) == Exit.DONE
    assert capsys.readouterr().out.splitlines()[1:] == ["", '[channels."zwölf.{tag}"]']
    (tmp_path / "channels.toml").write_text(text, encoding="utf-8")
    before = {name: dict(settings) for name, settings in broker.settings.items()}
    assert run(["apply", str(tmp_path / "channels.toml"), "--json"], broker.context) == Exit.DONE
    assert {row["action"] for row in json.loads(capsys.readouterr().out)["channels"]} == {"unchanged"}
    assert broker.settings == before
    elsewhere = FakeBroker()
    with (tmp_path / "channels.toml").open(encoding="utf-8") as piped:
        monkeypatch.setattr(sys, "stdin", piped)
        assert run(["apply", "-"], elsewhere.context) == Exit.DONE
    assert elsewhere.settings == before


def test_export_leaves_out_consumers_which_are_opened_and_not_created(capsys: pytest.CaptureFixture[str]) -> None:
    broker = FakeBroker()
    broker.settings |= {"events_store:s": {"overflow": "drop_oldest"}, "events_store:s>c": {}}
    assert run(["export"], broker.context) == Exit.DONE
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("[")] == ['[channels."events_store:s"]']


def test_export_of_nothing_is_a_file_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["export"], FakeBroker().context) == Exit.DONE
    (tmp_path / "none.toml").write_text(capsys.readouterr().out)
    assert run(["apply", str(tmp_path / "none.toml"), "--json"], FakeBroker().context) == Exit.DONE
    assert json.loads(capsys.readouterr().out) == {"dry_run": False, "defaults": [], "channels": [], "rules": []}


RULES = """
[defaults."orders.>"]
max_messages = 100
dead_letter = "orders.dead"
create_on_use = false

[defaults.">"]
delay_ms = 5

[channels."orders.eu"]
max_messages = 0

[channels."orders.dead"]
"""


def test_apply_sets_defaults_first_and_channels_have_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broker = FakeBroker()
    broker.defaults[">"] = {"delay_ms": 5}
    broker.defaults["orders.*"] = {"max_in_flight": 3}  # which the file does not name, and which stays
    file = tmp_path / "rules.toml"
    file.write_text(RULES)
    assert run(["apply", str(file), "--dry-run"], broker.context) == Exit.DONE
    assert "orders.>" not in broker.defaults
    capsys.readouterr()
    assert run(["apply", str(file)], broker.context) == Exit.DONE
    assert capsys.readouterr().out.splitlines() == [
        "defaults orders.>: set, max_messages 100, dead_letter orders.dead, create_on_use false",
        "defaults >: unchanged",
        "orders.eu: created, dead_letter orders.dead, delay_ms 5 ms, max_in_flight 3",
        "orders.dead: created, delay_ms 5 ms, max_messages 100, max_in_flight 3",
    ]
    assert run(["apply", str(file), "--json"], broker.context) == Exit.DONE
    told = json.loads(capsys.readouterr().out)
    assert [(row["pattern"], row["action"]) for row in told["defaults"]] == [("orders.>", "unchanged"), (">", "unchanged")]
    assert {row["action"] for row in told["channels"]} == {"unchanged"}


def test_export_writes_defaults_and_of_channels_what_they_do_not_say(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broker = FakeBroker()
    file = tmp_path / "rules.toml"
    file.write_text(RULES)
    assert run(["apply", str(file)], broker.context) == Exit.DONE
    capsys.readouterr()
    assert run(["export"], broker.context) == Exit.DONE
    file.write_text(capsys.readouterr().out)
    elsewhere = FakeBroker()
    assert run(["apply", str(file)], elsewhere.context) == Exit.DONE
    assert (elsewhere.defaults, elsewhere.settings) == (broker.defaults, broker.settings)
    assert '[channels."orders.eu"]\nmax_messages = 0' in file.read_text()


ROUTING = """
[channels.billing]

[routes]
audit = "queues:audit.eu;events:audit"
"zwölf" = "a"

[bindings]
"events_store:orders.>" = "billing"
"""


def test_apply_and_export_know_routes_and_bindings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broker, elsewhere = FakeBroker(), FakeBroker()
    broker.routes["zwölf"] = "a"
    file = tmp_path / "rules.toml"
    file.write_text(ROUTING, encoding="utf-8")
    assert run(["apply", str(file), "--dry-run"], broker.context) == Exit.DONE
    assert (list(broker.routes), broker.bindings) == (["zwölf"], {})
    assert run(["apply", str(file)], broker.context) == Exit.DONE
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:4] == [
        "route audit: would be set, audit.eu;events:audit",
        "route zwölf: unchanged",
        "binding events_store:orders.>: would be set, billing",
    ]
    assert lines[5] == "route audit: set, audit.eu;events:audit"
    assert (broker.routes, broker.bindings) == (
        {"audit": "audit.eu;events:audit", "zwölf": "a"},
        {"events_store:orders.>": "billing"},
    )
    assert run(["apply", str(file), "--json"], broker.context) == Exit.DONE
    rules = json.loads(capsys.readouterr().out)["rules"]
    assert [(row["kind"], row["name"], row["action"]) for row in rules] == [
        ("route", "audit", "unchanged"),
        ("route", "zwölf", "unchanged"),
        ("binding", "events_store:orders.>", "unchanged"),
    ]
    assert run(["export"], broker.context) == Exit.DONE
    file.write_text(capsys.readouterr().out, encoding="utf-8")
    assert run(["apply", str(file)], elsewhere.context) == Exit.DONE
    assert (elsewhere.routes, elsewhere.bindings) == (broker.routes, broker.bindings)
