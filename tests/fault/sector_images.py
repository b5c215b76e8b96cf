"""What a power cut could have left of the files below a directory, at any moment of a run that strace has recorded.

`record` runs a program under strace. `Replay` makes its calls again on the simulator's disk (tests/simulation/disk.py says
what a power cut leaves there), and draws images in between: for a program whose calls go past any interface of ours, as
LMDB's do.

It understands the calls in `CALLS` only, and refuses a trace in which data was cut off. Writes through mmap are not seen. A
file that is shortened becomes zeros, which a power cut may undo in any sector.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.simulation.disk import SimDisk

__all__ = ["CALLS", "Call", "Replay", "parse", "record"]

_WRITES = ("pwrite64", "pwritev", "pwritev2", "writev", "write")
_BY_PATH = ("openat", "mkdir", "rename", "unlink")
_BY_DESCRIPTOR = (*_WRITES, "lseek", "fdatasync", "fsync", "ftruncate", "fallocate", "close")
CALLS = (*_BY_PATH, *_BY_DESCRIPTOR)
#: Longer than any single buffer; of hexadecimal text, strace writes four times as much.
_DATA_MAX = 1 << 24
#: The offset is the last argument, but for the flags of pwritev2.
_LAST, _BUT_ONE = re.compile(r", (\d+)$"), re.compile(r", (\d+), [^,]*$")
_OFFSET = {"pwrite64": _LAST, "pwritev": _LAST, "pwritev2": _BUT_ONE}

_LINE = re.compile(r"(\d+) +(.*)")
_UNFINISHED = " <unfinished ...>"
_RESUMED = re.compile(r"<\.\.\. \w+ resumed>(.*)")
_CALL = re.compile(r"(\w+)\((.*)\) += (-?\d+)")
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"(\.\.\.)?')


@dataclass(slots=True, frozen=True)
class Call:
    """One system call that succeeded."""

    name: str
    arguments: str  # with every text replaced by ""
    texts: tuple[bytes, ...]
    result: int


def record(command: Sequence[str], output: Path, timeout_s: float) -> list[Call]:
    """Run a program under strace; the calls of all its threads, in the order in which they ended."""
    tracer = ["strace", "-f", "-xx", "-s", str(_DATA_MAX), "-e", f"trace={','.join(CALLS)}", "-o", str(output)]
    subprocess.run([*tracer, *command], check=True, stdin=subprocess.DEVNULL, timeout=timeout_s)
    with output.open(encoding="ascii") as lines:
        return list(parse(lines))


def parse(lines: Iterable[str]) -> Iterator[Call]:
    """The calls in strace's output that succeeded."""
    unfinished: dict[str, str] = {}  # thread -> its call so far
    for line in lines:
        match = _LINE.match(line.rstrip("\n"))
        assert match is not None, line[:200]
        thread, text = match.groups()
        if text.endswith(_UNFINISHED):
            unfinished[thread] = text.removesuffix(_UNFINISHED)
            continue
        if resumed := _RESUMED.match(text):
            text = unfinished.pop(thread) + resumed[1]
        if (call := _CALL.match(text)) is not None and int(call[3]) >= 0:
            yield _call(call[1], call[2], int(call[3]))


def _call(name: str, arguments: str, result: int) -> Call:
    texts = []
    for text, cut in _TEXT.findall(arguments):
        assert not cut, f"strace has cut the data of {name}"
        texts.append(bytes.fromhex(text.replace("\\x", "")))
    return Call(name, _TEXT.sub('""', arguments), tuple(texts), result)


@dataclass(slots=True)
class _Open:
    """What a descriptor of the program stands for."""

    path: Path
    descriptor: int  # on the simulated disk; -1: a directory
    dsync: bool
    position: int = 0


class Replay:
    """The files below `directory`, as the calls that it is given leave them on a simulated disk, whose root that is.

    The directory was empty in the beginning, or held what `found` holds, all of it durable.
    """

    def __init__(self, directory: Path, marks: str, found: Path | None = None) -> None:
        self._root = directory
        self._marks = directory / marks  # a file that is only there to be seen in the trace
        self._disk = SimDisk(Random(0))
        self._open: dict[int, _Open] = {}
        self._dirty: set[Path] = set()  # files with writes that nothing has synced
        if found is not None:
            self._load(found, Path("/"))

    def _load(self, directory: Path, place: Path) -> None:
        for path in directory.iterdir():
            if path.is_dir():
                self._disk.make_directory(place / path.name)
                self._load(path, place / path.name)
            else:
                descriptor = self._disk.create(place / path.name)
                self._disk.pwritev(descriptor, [path.read_bytes()], 0)
                self._disk.fdatasync(descriptor)
        self._disk.sync_directory(place)

    def steps(self, calls: Iterable[Call]) -> Iterator[bytes]:
        """Make the calls; returns to the caller whenever the disk has changed, with what was written to the marks meanwhile."""
        for call in calls:
            held = self._open.get(_number(call, 0)) if call.name in _BY_DESCRIPTOR else None
            if held is not None and held.path == self._marks and call.name in _WRITES:
                yield b"".join(call.texts)
            elif self._changed_by(call, held):
                yield b""
            if held is not None and held.dsync and call.name in _WRITES:
                self._disk.fdatasync(held.descriptor)
                yield b""

    def _changed_by(self, call: Call, held: _Open | None) -> bool:
        """Make one call; whether the disk is another one now."""
        if call.name in _BY_PATH:
            return self._by_path(call)
        if held is None or held.path == self._marks:
            return False
        if call.name == "close":
            self._close(call)
        elif call.name == "lseek":
            held.position = call.result
        elif call.name in ("ftruncate", "fallocate"):
            self._resize(call, held)
        elif call.name in _WRITES:
            self._write(call, held)
        else:
            self._sync(held)
        return call.name not in ("close", "lseek")

    def image(self, random: Random, target: Path) -> None:
        """Write to `target`, an empty directory, what a power cut now could leave."""
        disk = deepcopy(self._disk)
        disk.crash(random)
        for path in disk.directories():
            (target / path.relative_to("/")).mkdir()
        for path in disk.paths():
            (target / path.relative_to("/")).write_bytes(disk.durable_bytes(path) or b"")

    def _place(self, text: bytes) -> Path | None:
        """Where a path of the program is on the simulated disk; None when it is not below the directory."""
        path = Path(text.decode())
        return Path("/") / path.relative_to(self._root) if path.is_relative_to(self._root) and path != self._root else None

    def _by_path(self, call: Call) -> bool:
        if call.name == "openat":
            return self._opened(call)
        places = [self._place(text) for text in call.texts]
        if places[0] is None:
            return False
        if call.name == "mkdir":
            self._disk.make_directory(places[0])
        elif call.name == "rename":
            assert places[1] is not None
            self._disk.rename(places[0], places[1])
        else:
            self._disk.unlink(places[0])
        return True

    def _opened(self, call: Call) -> bool:
        path = Path(call.texts[0].decode())
        self._open.pop(call.result, None)
        if "O_DIRECTORY" in call.arguments and path.is_relative_to(self._root):
            self._open[call.result] = _Open(Path("/") / path.relative_to(self._root), -1, dsync=False)
        elif path == self._marks:
            self._open[call.result] = _Open(path, -1, dsync=False)
        elif (place := self._place(call.texts[0])) is not None:
            found = place.name in self._disk.names(place.parent)
            assert not (found and "O_TRUNC" in call.arguments), f"{place}: to empty a file while it is opened is not understood"
            descriptor = self._disk.open(place) if found else self._disk.create(place)
            self._open[call.result] = _Open(place, descriptor, dsync="SYNC" in call.arguments)
            return not found
        return False

    def _write(self, call: Call, held: _Open) -> None:
        data = b"".join(call.texts)[: call.result]
        assert len(data) == call.result, f"strace has cut the data of {call.name}"
        placed = call.name in ("pwrite64", "pwritev", "pwritev2")
        offset = int(_OFFSET[call.name].search(call.arguments)[1]) if placed else held.position  # type: ignore[index]
        if held.dsync:  # a sync of the whole file is the same then
            assert held.path not in self._dirty, "a synchronous write beside others that are not synced is not understood"
        else:
            self._dirty.add(held.path)
        written = self._disk.pwritev(held.descriptor, [data], offset)
        assert written == len(data)
        held.position = held.position if placed else offset + written

    def _resize(self, call: Call, held: _Open) -> None:
        if call.name == "ftruncate":
            size = _number(call, 1)
        else:
            offset, length = _number(call, 2), _number(call, 3)
            assert not offset, "to allocate the middle of a file is not understood"
            size = length
        if "ZERO_RANGE" in call.arguments or size < self._disk.size(held.descriptor):
            self._disk.zero(held.descriptor, self._disk.size(held.descriptor))
        self._disk.allocate(held.descriptor, size)

    def _close(self, call: Call) -> None:
        held = self._open.pop(_number(call, 0))
        if held.descriptor >= 0:
            self._disk.close(held.descriptor)

    def _sync(self, held: _Open) -> None:
        if held.descriptor < 0:
            self._disk.sync_directory(held.path)
        else:
            self._disk.fdatasync(held.descriptor)
            self._dirty.discard(held.path)


def _number(call: Call, argument: int) -> int:
    """One of the first arguments, as a number."""
    return int(call.arguments.split(", ")[argument])
