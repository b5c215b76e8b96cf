"""Reads scripts: commands with their input and the output that the reference gave.

A command line is a word with arguments: bare ones, `key=value` and `key=(value,value)`. Lines up to `----` are its input, lines
from there to an empty line its expected output; output that holds empty lines itself stands between a second `----` and two
further ones. `#` begins a comment line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

__all__ = ["Command", "ScriptError", "parse"]

_MARK = "----"
_WORD = re.compile(r"([^\s=]+)=\(([^)]*)\)|([^\s=]+)=(\S*)|(\S+)")


class ScriptError(ValueError):
    """A script, or a command in it, that cannot be understood."""


@dataclass
class Command:
    """One command; `line` counts from 1, `expected` is what has to come out."""

    name: str
    line: int
    arguments: list[str] = field(default_factory=list)
    options: dict[str, list[str]] = field(default_factory=dict)
    input: list[str] = field(default_factory=list)
    expected: str = ""

    def ids(self) -> list[int]:
        """The bare arguments as node ids."""
        return [_number(text, self.line) for text in self.arguments]

    def id(self, position: int = 0) -> int:
        """One bare argument as a number."""
        if position >= len(self.arguments):
            raise ScriptError(f"line {self.line}: {self.name} has {len(self.arguments)} arguments")
        return _number(self.arguments[position], self.line)

    def option_ids(self, key: str) -> list[int]:
        """The values of one option as node ids; none when it is absent."""
        return [_number(text, self.line) for text in self.options.get(key, [])]

    def option(self, key: str, default: str = "") -> str:
        """The single value of one option."""
        return self.options.get(key, [default])[0]

    def flag(self, key: str) -> bool:
        """Whether an option is `true`."""
        return self.option(key) == "true"


def _number(text: str, line: int) -> int:
    try:
        return int(text)
    except ValueError:
        raise ScriptError(f"line {line}: {text!r} is no number") from None


def parse(text: str) -> Iterator[Command]:
    """The commands of a script, in order. Raises `ScriptError`."""
    lines = text.split("\n")
    position = 0
    while position < len(lines):
        if not lines[position].strip() or lines[position].startswith("#"):
            position += 1
            continue
        command = _command(lines[position], position + 1)
        position += 1
        while position < len(lines) and lines[position] != _MARK:
            command.input.append(lines[position])
            position += 1
        if position == len(lines):
            raise ScriptError(f"line {command.line}: {command.name} has no {_MARK}")
        command.expected, position = _expected(lines, position + 1)
        yield command


def _command(line: str, number: int) -> Command:
    words = _WORD.finditer(line)
    command = Command(next(words).group(), number)
    for word in words:
        key, several, single_key, value, bare = word.groups()
        if key:
            command.options[key] = [part.strip() for part in several.split(",")] if several.strip() else []
        elif single_key:
            command.options[single_key] = [value]
        else:
            command.arguments.append(bare)
    return command


def _expected(lines: list[str], position: int) -> tuple[str, int]:
    """The expected output from `position` on, and where the next command may begin."""
    if position < len(lines) and lines[position] == _MARK:
        for end in range(position + 1, len(lines) - 1):
            if lines[end] == lines[end + 1] == _MARK:
                return "".join(f"{line}\n" for line in lines[position + 1 : end]), end + 2
        raise ScriptError(f"line {position + 1}: the output that begins here does not end")
    end = position
    while end < len(lines) and lines[end]:
        end += 1
    return "".join(f"{line}\n" for line in lines[position:end]), end
