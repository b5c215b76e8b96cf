"""What a command says: its own words and the cores' log lines, above a level that scripts set."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.conformance.raft.describe import indent
from tests.conformance.raft.script import ScriptError

__all__ = ["Output"]

_LEVELS = ("DEBUG", "INFO", "WARN", "ERROR", "FATAL", "NONE")


class Output:
    """Gathers text until it is taken. At level NONE only failures of commands are said."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._level = 0

    def set_level(self, name: str) -> None:
        """Say only log lines of this level and above from now on. Raises `ScriptError`."""
        if name.upper() not in _LEVELS:
            raise ScriptError(f"{name!r} is no log level")
        self._level = _LEVELS.index(name.upper())

    @contextmanager
    def level(self, name: str) -> Iterator[None]:
        """Another level for a while; the same one when `name` is empty."""
        before = self._level
        if name:
            self.set_level(name)
        yield
        self._level = before

    @contextmanager
    def indented(self) -> Iterator[None]:
        """What is said meanwhile stands two columns further to the right."""
        outer, self._parts = self._parts, []
        yield
        outer.append(indent("".join(self._parts)))
        self._parts = outer

    def say(self, text: str) -> None:
        """A command's words."""
        if self._level < _LEVELS.index("NONE"):
            self._parts.append(text)

    def log(self, line: str) -> None:
        """A core's line, which begins with its level."""
        if _LEVELS.index(line.split(" ", 1)[0]) >= self._level:
            self._parts.append(f"{line}\n")

    def fail(self, text: str) -> None:
        """Why a command failed; said at every level."""
        self._parts.append(f"{text}\n")

    def take(self) -> str:
        """Everything said since the last call."""
        text = "".join(self._parts)
        self._parts = []
        return text
