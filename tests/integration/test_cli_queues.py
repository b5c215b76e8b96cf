"""Queues and channels by command as a user goes through them, on three real nodes, each command at any of them."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

import zmqbroker
from tests.integration.test_cli import COMMAND, run
from tests.integration.wild import unique_channel
from tests.processes import Cluster, wait_until
from zmqbroker.cli.exits import Exit

HOUR_MS = "3600000"


class Commands:
    """The command line at one node after the other."""

    def __init__(self, cluster: Cluster) -> None:
        self._urls = [node.endpoint for node in cluster.nodes.values()]

    def status(self, *arguments: str, data: bytes = b"") -> tuple[int, str, str]:
        """Status, standard output, standard error."""
        self._urls = [*self._urls[1:], self._urls[0]]
        done = run(*arguments, url=self._urls[0], data=data)
        assert b"Traceback" not in done.stderr, done.stderr
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    def text(self, *arguments: str, data: bytes = b"") -> str:
        """What a command that is done prints."""
        status, out, err = self.status(*arguments, data=data)
        assert (status, err) == (Exit.DONE, ""), err
        return out

    def lines(self, *arguments: str) -> list[Any]:
        """The JSON of each line of a command that is done."""
        return [json.loads(line) for line in self.text(*arguments, "--json").splitlines()]

    def one(self, *arguments: str) -> Any:
        """The one JSON document of a command that is done."""
        (document,) = self.lines(*arguments)
        return document


@pytest.fixture
def commands(trio: Cluster) -> Commands:
    return Commands(trio)


def sequences(messages: list[Any]) -> list[int]:
    return [message["sequence"] for message in messages]


def test_messages_are_sent_with_all_they_can_have_and_come_by_priority(commands: Commands, tmp_path: Path) -> None:
    orders = unique_channel("cli")
    (tmp_path / "body").write_bytes(b"from a file\x00")
    commands.text("queue", "send", orders, "plain")
    said = ("--priority", "9", "--id", "u-1", "--metadata", "m", "--tag", "a=b", "--group", "order-17")
    commands.text("queue", "send", orders, "urgent", *said)
    commands.text("queue", "send", orders, "later", "--delay-ms", HOUR_MS)
    commands.text("queue", "send", orders, "--file", str(tmp_path / "body"), "--priority", "1")
    commands.text("queue", "send", orders, "gone soon", "--expiry-ms", "1")
    wait_until(lambda: commands.one("queue", "stats", orders)["expired"] == 1, 10, "a message expires")
    stats = commands.one("queue", "stats", orders)
    assert [stats[name] for name in ("depth", "ready", "delayed", "in_flight")] == [4, 3, 1, 0]
    peeked = commands.lines("queue", "peek", orders, "--max", "9")
    assert [(message["sequence"], message["delivery_count"]) for message in peeked] == [(1, 0), (2, 0), (3, 0), (4, 0)]
    urgent = commands.lines("queue", "receive", orders)[0]
    assert urgent["group"] == "order-17"
    assert [urgent[name] for name in ("sequence", "id", "metadata", "tags", "delivery_count", "origin", "body")] == [
        2,
        "u-1",
        "m",
        {"a": "b"},
        1,
        None,
        "urgent",
    ]
    assert sequences(commands.lines("queue", "receive", orders, "--max", "9")) == [4, 1]
    assert commands.status("queue", "receive", orders)[0] == Exit.NOTHING_THERE
    assert commands.one("queue", "delete", orders, "3", "1") == {"channel": orders, "count": 1}
    assert commands.status("queue", "delete", orders, "3")[0] == Exit.NOTHING_THERE
    assert commands.one("queue", "stats", orders)["depth"] == 0


def test_delayed_message_comes_when_its_time_has_come(commands: Commands) -> None:
    orders = unique_channel("cli")
    before_ns = time.monotonic_ns()
    commands.text("queue", "send", orders, "later", "--delay-ms", "1500")
    received = commands.lines("queue", "receive", orders, "--wait-ms", "20000")
    assert [message["body"] for message in received] == ["later"]
    assert time.monotonic_ns() - before_ns >= 1_500_000_000


def test_peek_goes_on_behind_what_fits_into_one_answer(commands: Commands, trio: Cluster) -> None:
    orders = unique_channel("cli")
    with zmqbroker.SyncClient(trio.url) as client:
        for number in range(6):
            client.queue(orders).send(bytes([number]) * 300_000)
    found = commands.lines("queue", "peek", orders, "--first", "2", "--max", "9")
    assert sequences(found) == [2, 3, 4, 5, 6]
    since = commands.lines("queue", "peek", orders, "--since", str(found[3]["time_unix_ns"]), "--max", "9")
    assert sequences(since) == [5, 6]
    assert commands.one("queue", "stats", orders)["ready"] == 6


def test_dead_letters_are_seen_with_their_origin_and_redriven(commands: Commands, trio: Cluster) -> None:
    orders, bills, dead = unique_channel("cli"), unique_channel("cli"), unique_channel("cli.dead")
    for channel in (orders, bills):
        commands.text("channel", "create", channel, "--set", f"dead_letter={dead}", "--set", "delivery_limit=1")
    commands.text("queue", "send", orders, "a", "b", "--tag", "kept=yes")
    commands.text("queue", "send", bills, "c")
    with zmqbroker.SyncClient(trio.url) as client:
        for message in client.queue(orders).receive(max=2):
            message.reject("no such customer")
    # At its delivery limit what comes back goes there by itself, as after --no-ack.
    assert sequences(commands.lines("queue", "receive", bills, "--no-ack")) == [1]
    wait_until(lambda: commands.one("queue", "stats", dead)["ready"] == 3, 10, "all three are dead letters")
    shown = commands.text("queue", "peek", dead, "--max", "9")
    assert shown.count("no such customer") == 2
    assert [(message["tags"], message["origin"]) for message in commands.lines("queue", "peek", dead, "--max", "9")] == [
        ({"kept": "yes"}, {"channel": orders, "sequence": 1, "delivery_count": 1, "reason": "no such customer"}),
        ({"kept": "yes"}, {"channel": orders, "sequence": 2, "delivery_count": 1, "reason": "no such customer"}),
        ({}, {"channel": bills, "sequence": 1, "delivery_count": 1, "reason": "delivery_limit"}),
    ]
    assert commands.one("queue", "redrive", dead, "--origin", orders, "--max", "1")["count"] == 1
    assert commands.text("queue", "redrive", dead, "--origin", orders, "--to", bills) == f"{dead}: 1 message moved to {bills}\n"
    assert commands.text("queue", "redrive", dead) == f"{dead}: 1 message moved back\n"
    assert [message["body"] for message in commands.lines("queue", "receive", orders, "--max", "9")] == ["a"]
    redriven = commands.lines("queue", "receive", bills, "--max", "9")
    assert [message["body"] for message in redriven] == ["b", "c"]
    assert {message["origin"]["reason"] for message in redriven} == {"redriven"}


def test_purge_spares_what_is_in_flight_and_ack_all_does_not(commands: Commands, trio: Cluster) -> None:
    orders = unique_channel("cli")
    commands.text("queue", "send", orders, *"abcd")
    commands.text("queue", "send", orders, "later", "--delay-ms", HOUR_MS)
    with zmqbroker.SyncClient(trio.url) as client:
        held = client.queue(orders).receive(max=2)
        assert commands.text("queue", "purge", orders) == f"{orders}: 3 messages purged\n"
        assert commands.one("queue", "stats", orders)["in_flight"] == 2
        held[0].ack()
        assert commands.text("queue", "ack-all", orders) == f"{orders}: 1 message finished, counting those in flight\n"
    # Its session is over: what it still held would be ready again now.
    assert commands.status("queue", "receive", orders, "--wait-ms", "200")[0] == Exit.NOTHING_THERE
    assert commands.one("queue", "stats", orders)["depth"] == 0


def test_channel_from_its_creation_to_its_end(commands: Commands) -> None:
    orders = unique_channel("cli.life")
    assert commands.one("channel", "create", orders, "--set", "max_messages=2", "--set", "delay_ms=0")["created"] is True
    assert commands.one("channel", "create", orders, "--set", "max_messages=2")["created"] is False
    status, _, err = commands.status("channel", "create", orders)
    assert (status, "max_messages is 2 and not 0" in err) == (Exit.REFUSED, True)
    commands.text("queue", "send", orders, "a", "b")
    full = commands.status("queue", "send", orders, "c", "--timeout-ms", "3000")
    assert (full[0], "max_messages 2" in full[2]) == (Exit.REFUSED, True), full
    assert commands.one("channel", "update", orders, "--set", "overflow=drop_oldest")["changed"] is True
    commands.text("queue", "send", orders, "c")
    assert [message["body"] for message in commands.lines("queue", "peek", orders, "--max", "9")] == ["b", "c"]
    described = commands.one("channel", "describe", orders)
    assert (described["dropped"], described["settings"]["max_messages"], described["settings"]["overflow"]) == (
        1,
        2,
        "drop_oldest",
    )
    assert described["settings"]["delay_ms"] == 0
    assert [row["channel"] for row in commands.one("channel", "list", "--search", orders)] == [orders]
    table = commands.text("channel", "list", "--search", orders).splitlines()
    assert (len(table), table[1].split()[:3]) == (2, [orders, "2", "0"])
    assert max(map(len, table)) <= 100
    assert "drop_oldest" in commands.text("channel", "describe", orders)
    assert commands.status("channel", "delete", orders)[0] == Exit.USAGE
    assert commands.text("channel", "delete", orders, "--yes") == f"{orders}: deleted\n"
    for gone in (["channel", "describe"], ["channel", "update", "--set", "delay_ms=1"], ["queue", "stats"], ["queue", "peek"]):
        assert commands.status(*gone, orders)[0] == Exit.NOTHING_THERE
    assert commands.one("channel", "list", "--search", orders) == []


@pytest.mark.parametrize(("answer", "status", "left"), [(b"n\n", Exit.INTERRUPTED, 1), (b"y\n", Exit.DONE, 0)])
def test_channel_delete_at_a_terminal_asks(answer: bytes, status: Exit, left: int, commands: Commands, trio: Cluster) -> None:
    orders = unique_channel("cli.asked")
    commands.text("queue", "send", orders, "a")
    ours, theirs = pty.openpty()
    try:
        os.write(ours, answer)
        done = subprocess.run(
            [*COMMAND, "channel", "delete", orders, "--url", trio.url],
            stdin=theirs,
            capture_output=True,
            timeout=60,
            check=False,
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert (done.returncode, f"Delete {orders} with its 1 messages?".encode() in done.stderr) == (status, True), done
    assert len(commands.one("channel", "list", "--search", orders)) == left


def test_channels_of_a_file_are_applied_and_exported_again(commands: Commands, tmp_path: Path) -> None:
    prefix = unique_channel("cli.file")
    new, there, other = f"{prefix}.new{{tag}}", f"{prefix}.thère", f"{prefix}.other"
    commands.text("channel", "create", there, "--set", "delay_ms=60000", "--set", "max_in_flight=3")
    commands.text("channel", "create", other, "--set", "delay_ms=1")
    file = tmp_path / "channels.toml"
    file.write_text(
        f'[channels."{new}"]\ndead_letter = "{other}"\noverflow = "dead_letter"\nmax_messages = 10\n'
        f'[channels."{there}"]\ndelay_ms = 90000\n',
        encoding="utf-8",
    )
    dry = commands.one("apply", str(file), "--dry-run")
    assert [row["action"] for row in dry["channels"]] == ["created", "updated"]
    assert commands.status("channel", "describe", new)[0] == Exit.NOTHING_THERE
    assert commands.text("apply", str(file)).splitlines() == [
        f"{new}: created, dead_letter {other}, max_messages 10, overflow dead_letter",
        f"{there}: updated, delay_ms 1 min → 1 min 30 s, max_in_flight 3 → -",
    ]
    assert [row["action"] for row in commands.one("apply", str(file))["channels"]] == ["unchanged", "unchanged"]
    assert commands.one("channel", "describe", there)["settings"]["max_in_flight"] == 0
    assert commands.one("channel", "describe", other)["settings"]["delay_ms"] == 1, "what the file does not name stays"

    exported = commands.text("export", "--search", prefix).encode()
    again = json.loads(commands.text("apply", "-", "--json", data=exported))
    assert [(row["channel"], row["action"]) for row in again["channels"]] == [
        (name, "unchanged") for name in sorted((new, there, other))
    ]
    for name in (new, there, other):
        commands.text("channel", "delete", name, "--yes")
    made = json.loads(commands.text("apply", "-", "--json", data=exported))
    assert {row["action"] for row in made["channels"]} == {"created"}
    assert commands.text("export", "--search", prefix).encode() == exported


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (("queue", "send", "orders", "x", "--priority", "10"), Exit.USAGE),
        (("queue", "send", "orders", "x", "--tag", "none"), Exit.USAGE),
        (("queue", "peek", "orders", "--since", "yesterday"), Exit.USAGE),
        (("queue", "delete", "orders", "0"), Exit.USAGE),
        (("queue", "redrive", "not a name"), Exit.REFUSED),
        (("queue", "redrive", "nobody-used-it"), Exit.NOTHING_THERE),
        (("queue", "purge", "nobody-used-it"), Exit.NOTHING_THERE),
        (("channel", "create", "not a name"), Exit.REFUSED),
        (("channel", "create", "orders", "--set", "dealy_ms=1"), Exit.USAGE),
        (("channel", "delete", "nobody-used-it", "--yes"), Exit.NOTHING_THERE),
        (("channel", "list", "--url", "tcp://127.0.0.1:1", "--timeout-ms", "300"), Exit.UNREACHABLE),
        (("queue", "peek", "orders", "--url", "tcp://127.0.0.1:1", "--timeout-ms", "300"), Exit.UNREACHABLE),
        (("export", "--url", "tcp://127.0.0.1:1", "--timeout-ms", "300"), Exit.UNREACHABLE),
        (("apply", "/nonexistent.toml"), Exit.USAGE),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else value.name,
)
def test_command_that_cannot_be_done_ends_with_its_status(commands: Commands, arguments: tuple[str, ...], status: Exit) -> None:
    ended, out, err = commands.status(*arguments)
    assert (ended, out) == (status, "")
    assert err
