"""Work in a child: its result, its errors, and its death."""

from __future__ import annotations

import os
import signal

import pytest

from zmqbroker.errors import Corruption
from zmqbroker.server.isolation import isolated


def test_result_comes_back_and_nothing_else_changes() -> None:
    mine: list[int] = []

    def work() -> tuple[int, list[int]]:
        mine.append(1)
        return os.getpid(), mine

    child, theirs = isolated(work, "file")
    assert (child != os.getpid(), theirs, mine) == (True, [1], [])


def test_result_larger_than_a_pipe_comes_back() -> None:
    assert isolated(lambda: bytes(10_000_000), "file") == bytes(10_000_000)


@pytest.mark.parametrize("error", [Corruption("file: offset 7: wrong"), FileNotFoundError(2, "none")])
def test_error_is_raised_here(error: Exception) -> None:
    def work() -> None:
        raise error

    with pytest.raises(type(error), match=str(error).replace("[", r"\[")):
        isolated(work, "file")


def test_bug_is_no_damage(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match="the child has failed"):
        isolated(lambda: 1 // 0, "file")
    assert "ZeroDivisionError" in capfd.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT])
def test_child_ended_by_a_signal_means_damage(number: signal.Signals) -> None:
    with pytest.raises(Corruption, match=f"state/: is damaged: reading it ends with {number.name}"):
        isolated(lambda: os.kill(os.getpid(), number), "state/")
