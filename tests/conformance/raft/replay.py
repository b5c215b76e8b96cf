"""Replays scripts from files, directories and tars, and says where the first difference is."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

from tests.conformance.raft.environment import Environment
from tests.conformance.raft.script import Command, ScriptError, parse

__all__ = ["load", "replay"]

_LOG_LINE = re.compile(r"^\s*(DEBUG|INFO|WARN|ERROR|FATAL) ")


def load(path: Path) -> Iterator[tuple[str, str]]:
    """Name and text of every script in a file, a directory (with all below it) or a tar of any compression.

    Raises OSError, or `ScriptError` for a script that is no text.
    """
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            if file.is_file() and (file.suffix == ".txt" or tarfile.is_tarfile(file)):
                yield from load(file)
    elif tarfile.is_tarfile(path):
        with tarfile.open(path) as archive:
            for member in archive:
                stream = archive.extractfile(member)
                if stream is not None:
                    yield f"{path.name}:{member.name}", _text(member.name, stream.read())
    else:
        yield path.name, _text(path.name, path.read_bytes())


def _text(name: str, content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ScriptError(f"{name} is no text: {error}") from error


def replay(text: str, *, structural: bool = False) -> str:
    """Run a script; where its output first differs, empty when it does not. `structural` leaves log lines out."""
    environment = Environment()
    place = "the script"
    try:
        for number, command in enumerate(parse(text), start=1):
            place = f"command {number} (line {command.line}, {command.name})"
            difference = _difference(command, environment.run(command), structural=structural)
            if difference:
                return f"{place}: {difference}"
    except Exception as error:  # a core that trips over a script has failed it, and the next script is to be run
        return f"{place}: {type(error).__name__}: {error}"
    return ""


def _difference(command: Command, actual: str, *, structural: bool) -> str:
    # A command's last line may or may not end, so trailing ends of lines do not count.
    expected_lines, actual_lines = (text.rstrip("\n").split("\n") for text in (command.expected, actual))
    if structural:
        expected_lines, actual_lines = (
            [line for line in lines if not _LOG_LINE.match(line)] for lines in (expected_lines, actual_lines)
        )
        if "".join(actual_lines) == "" and expected_lines == ["ok"]:
            return ""
    for number, (expected, got) in enumerate(zip_longest(expected_lines, actual_lines), start=1):
        if expected != got:
            return f"output line {number} is {got!r}, expected {expected!r}"
    return ""
