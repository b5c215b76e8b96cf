"""Events stores by command as a user goes through them, on three real nodes, each command at any of them.

The commands run in this process: that they do so in one of their own is shown by the tests of queues.
"""

from __future__ import annotations

import io
import sys
from types import SimpleNamespace

import pytest

from tests.integration.test_cli_queues import Commands as CommandsAsProcesses
from tests.integration.test_cli_queues import sequences
from tests.integration.wild import unique_channel
from tests.processes import Cluster
from zmqbroker.cli.app import run
from zmqbroker.cli.exits import Exit


class Commands(CommandsAsProcesses):
    """The command line, without a process for each."""

    def __init__(self, cluster: Cluster, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(cluster)
        self._capsys, self._monkeypatch = capsys, monkeypatch

    def status(self, *arguments: str, data: bytes = b"") -> tuple[int, str, str]:
        self._urls = [*self._urls[1:], self._urls[0]]
        self._monkeypatch.setenv("ZMQBROKER_URL", self._urls[0])
        self._monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data)))
        status = run(arguments)
        return status, *self._capsys.readouterr()


@pytest.fixture
def commands(trio: Cluster, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Commands:
    return Commands(trio, capsys, monkeypatch)


def test_events_are_published_read_and_read_again(commands: Commands) -> None:
    store = unique_channel("cli")
    published = commands.lines("store", "publish", store, "one", "two", "--key", "k", "--metadata", "m", "--tag", "eu=yes")
    assert [(event["store"], event["sequence"], event["confirm"]) for event in published] == [
        (store, 1, "quorum"),
        (store, 2, "quorum"),
    ]
    status, out, _ = commands.status("store", "publish", store, "--stdin", data=b"three\nfour\n")
    assert (status, out.count("is stored (quorum)")) == (Exit.DONE, 2)
    for _ in range(2):
        first, *rest = commands.lines("store", "read", store, "--max", "9")
        assert [first[name] for name in ("sequence", "key", "metadata", "tags", "body")] == [1, "k", "m", {"eu": "yes"}, "one"]
        assert sequences(rest) == [2, 3, 4]
    assert sequences(commands.lines("store", "read", store, "--start", "last")) == [4]
    assert sequences(commands.lines("store", "read", store, "--sequence", "3", "--max", "9")) == [3, 4]
    assert sequences(commands.lines("store", "read", store, "--time", "2020-01-01T00:00:00Z")) == [1]
    assert sequences(commands.lines("store", "read", store, "--time-delta-ms", "3600000")) == [1]
    table = commands.text("store", "read", store, "--max", "9")
    assert all(text in table for text in ("sequence", "key", "three"))
    assert commands.status("store", "read", store, "--start", "new")[0] == Exit.NOTHING_THERE


def test_newest_event_of_a_key_is_read(commands: Commands) -> None:
    store = unique_channel("cli")
    commands.text("channel", "create", f"events_store:{store}", "--set", "keep_latest=true")
    commands.text("store", "publish", store, "old", "new", "--key", "k")
    assert commands.one("store", "read", store, "--key", "k")["body"] == "new"
    assert commands.status("store", "read", store, "--key", "other")[0] == Exit.NOTHING_THERE


def test_consumers_subscribe_are_listed_reset_and_deleted(commands: Commands) -> None:
    store = unique_channel("cli")
    commands.text("store", "publish", store, *(str(number) for number in range(1, 7)))
    assert sequences(commands.lines("store", "subscribe", store, "--start", "first", "--max", "6", "--rate-limit", "1000")) == [
        *range(1, 7)
    ]
    reading = ("store", "subscribe", store, "--consumer", "billing", "--start", "first", "--max", "2")
    assert [sequences(commands.lines(*reading)) for _ in range(2)] == [[1, 2], [3, 4]]
    assert commands.text("store", "subscribe", store, "--group", "workers", "--start", "last", "--max", "1").endswith("6  6\n")
    assert [(info["name"], info["position"]) for info in commands.one("store", "consumers", store)] == [
        ("billing", 5),
        ("workers", 7),
    ]
    assert "billing" in commands.text("store", "consumers", store)
    assert commands.one("store", "reset", store, "billing", "--sequence", "2")["position"] == 2
    assert "event 1 of 1 to 6" in commands.text("store", "reset", store, "billing")
    assert sequences(commands.lines(*reading)) == [1, 2]
    for name in ("billing", "workers"):
        commands.text("store", "delete-consumer", store, name)
    status, out, err = commands.status("store", "consumers", store)
    assert (status, out) == (Exit.DONE, "")
    assert "no durable consumers" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("publish", "s"), "either BODIES or --stdin"),
        (("publish", "s", "a", "b", "--id", "x"), "--id is for a single event"),
        (("read", "s", "--key", "k", "--start", "last"), "where to begin is not to be given"),
        (("read", "s", "--start", "here"), "'here'"),
        (("subscribe", "s", "--consumer", "a", "--group", "b"), "either --consumer or --group"),
        (("subscribe", "s", "--rate-limit", "0"), "--rate-limit"),
        (("reset", "s"), "CONSUMER"),
    ],
)
def test_usage_that_is_wrong_is_said(commands: Commands, arguments: tuple[str, ...], said: str) -> None:
    status, _, err = commands.status("store", *arguments)
    assert status == Exit.USAGE
    assert said in err


def test_what_the_broker_refuses_has_its_status(commands: Commands) -> None:
    store = unique_channel("cli")
    commands.text("store", "publish", store, "one")
    for arguments in (("read", store, "--key", "k"), ("reset", store, "nobody"), ("read", "a b")):
        status, _, err = commands.status("store", *arguments)
        assert status != Exit.DONE
        assert err.startswith("zmqbroker: ")
