"""The command line as a whole: every error has its exit status and one line, help works without ZeroMQ."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import click
import pytest

import zmqbroker
from tests.unit.cli.fakes import FakeBroker
from zmqbroker import errors
from zmqbroker.cli import __main__ as door
from zmqbroker.cli import main
from zmqbroker.cli.app import application, run
from zmqbroker.cli.exits import Exit, exit_status
from zmqbroker.cli.options import connect_lazily


def every_error() -> list[type[errors.BrokerError]]:
    """Every class of the error tree."""
    found, open_classes = [], [errors.BrokerError]
    while open_classes:
        found.append(open_classes.pop())
        open_classes += found[-1].__subclasses__()
    return [kind for kind in found if kind.__module__ == errors.__name__]


@pytest.mark.parametrize("kind", every_error(), ids=lambda kind: kind.__name__)
def test_exit_status_every_error_has_the_one_of_its_kind(kind: type[errors.BrokerError]) -> None:
    unreachable = {"NoMajority", "NotLeader", "DeadlineExceeded", "RemoteProtocolError"}
    expected = {
        "ChannelNotFound": Exit.NOTHING_THERE,
        "NodeNotFound": Exit.NOTHING_THERE,
        "ScheduleNotFound": Exit.NOTHING_THERE,
        "ConfigError": Exit.USAGE,
        "LocalProtocolError": Exit.USAGE,
        "DataDirectoryError": Exit.USAGE,
        "Corruption": Exit.DAMAGED,
        "UnreadableBody": Exit.DAMAGED,
        "Divergence": Exit.DAMAGED,
        "BrokerError": Exit.INTERNAL,
        "ProtocolError": Exit.INTERNAL,
        "StorageError": Exit.INTERNAL,
        "Compacted": Exit.INTERNAL,
        "NoRoom": Exit.INTERNAL,
        **dict.fromkeys(unreachable, Exit.UNREACHABLE),
    }
    error: Any = kind(("fault",)) if kind is errors.ConfigError else kind("fault")
    assert exit_status(error) == expected.get(kind.__name__, Exit.REFUSED)


def raising(error: BaseException) -> click.Command:
    """A command that ends in `error`."""

    def callback() -> None:
        raise error

    return click.Command("fail", callback=callback)


@pytest.mark.parametrize(
    ("error", "status", "lines"),
    [
        (errors.ConfigError(("one", "two")), Exit.USAGE, ["zmqbroker: one", "zmqbroker: two"]),
        (errors.Busy("a bound is reached"), Exit.REFUSED, ["zmqbroker: a bound is reached"]),
        (FileNotFoundError(2, "No such file", "x"), Exit.USAGE, ["zmqbroker: [Errno 2] No such file: 'x'"]),
        (KeyboardInterrupt(), Exit.INTERRUPTED, [""]),
    ],
)
def test_run_foreseeable_error_is_one_line_per_fault(
    error: BaseException, status: Exit, lines: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(application.commands, "fail", raising(error))
    assert run(["fail"]) == status
    assert capsys.readouterr().err.splitlines() == lines


def test_main_bug_prints_traceback_and_ends_with_internal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(application.commands, "fail", raising(ZeroDivisionError("bug")))
    monkeypatch.setattr("sys.argv", ["zmqbroker", "fail"])
    assert door.main() == Exit.INTERNAL
    assert "ZeroDivisionError: bug" in capsys.readouterr().err


def test_main_runs_the_command_of_the_process(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["zmqbroker", "--version"])
    assert main() == Exit.DONE
    assert capsys.readouterr().out.startswith("zmqbroker ")


@pytest.mark.parametrize("arguments", [["--nonsense"], ["queue", "receive", "q", "--max", "0"], ["nonsense"]])
def test_run_wrong_usage_ends_with_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments, FakeBroker().context) == Exit.USAGE
    assert "Error:" in capsys.readouterr().err


def test_run_every_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    def explain(command: click.Command, path: list[str]) -> None:
        assert run([*path, "--help"]) == Exit.DONE
        assert command.help
        assert "Usage: zmqbroker" in capsys.readouterr().out
        for name, inner in getattr(command, "commands", {}).items():
            explain(inner, [*path, name])

    explain(application, [])
    ours = {
        "serve",
        "dev",
        "command",
        "query",
        "status",
        "queue",
        "channel",
        "schedule",
        "store",
        "events",
        "route",
        "binding",
        "apply",
        "export",
        "cluster",
        "bench",
        "backup",
        "restore",
        "verify",
        "log",
    }
    assert set(application.commands) == ours


def test_module_runs_as_a_program_and_loads_no_zeromq_for_help() -> None:
    program = "import sys, runpy; sys.argv[1:] = ['--help']\ntry:\n    runpy.run_module('zmqbroker', run_name='__main__')\n"
    program += "except SystemExit as end:\n    print('zmq' in sys.modules, 'lmdb' in sys.modules, end.code)\n"
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False False 0"


def test_reader_that_goes_away_ends_quietly() -> None:
    program = "import sys; from zmqbroker.cli import main; sys.stdin.read(); sys.argv[1:] = ['--help']; sys.exit(main())"
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    process.stdin.close()  # only now it begins to write
    with process.stderr as errors_said:
        assert errors_said.read() == ""
    assert process.wait() == Exit.REFUSED


def test_connect_lazily_makes_a_client_of_the_package() -> None:
    assert isinstance(connect_lazily("tcp://127.0.0.1:1", 5), zmqbroker.Client)
