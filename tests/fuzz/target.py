"""What is fuzzed: a decoder of bytes from outside, valid samples of its input, and what may come of a call.

A decoder gives a value or one of the errors that its callers handle; whatever else leaves it is a find, and so are a call that
does not end and one that takes more memory than its input can be worth. Inputs of several frames travel as one: each frame
behind its size, u32 little-endian.
"""

from __future__ import annotations

import re
import resource
import struct
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from zmqbroker.errors import BrokerError

__all__ = ["Find", "MissedTwin", "Target", "join_frames", "kind_of", "look", "split_frames"]

#: Inputs are cut here: what is wrong shows in small ones, and large ones are slow.
INPUT_SIZE_MAX = 64 << 10
#: Bytes that one call may add to the largest size that the process ever had; an array may claim what its bytes do not hold.
GROWTH_BYTES_MAX = 256 << 20
_SIZE = struct.Struct("<I")
#: Numbers and quoted values of a message: what is left tells its kind.
_VALUES = re.compile(r"'[^']*'|\"[^\"]*\"|0x[0-9a-f]+|\d+|\[.*|\{.*")


class MissedTwin(AssertionError):
    """Two halves that should do the same did not."""


@dataclass(frozen=True, slots=True)
class Target:
    """One decoder."""

    name: str
    run: Callable[[bytes], object]  # a text that it gives tells what kind of input that was
    samples: Callable[[], list[bytes]]
    allowed: tuple[type[BrokerError], ...]  # what its callers handle
    repair: Callable[[bytes], bytes] | None = None  # makes sizes and checksums right again, or as right as they get


@dataclass(frozen=True, slots=True)
class Find:
    """What should not have come of an input."""

    kind: str  # the same for the same fault, as a rule
    data: bytes
    text: str


def look(target: Target, data: bytes) -> tuple[str, Find | None]:
    """Run a target once: the kind of what came of it, and the find if that was wrong."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        answer = target.run(data)
        kind = answer if isinstance(answer, str) else ""
    except target.allowed as error:
        kind = kind_of(error)
    except Exception as error:  # that is what is looked for
        place = traceback.extract_tb(error.__traceback__)[-1]
        kind = f"{type(error).__name__} in {place.name}, line {place.lineno}"
        return kind, Find(kind, data, "".join(traceback.format_exception(error)))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
    if grown > GROWTH_BYTES_MAX:
        return kind, Find("memory", data, f"{len(data)} bytes made the process grow by {grown}\n")
    return kind, None


def kind_of(error: Exception) -> str:
    """An error without the values that its message tells."""
    return f"{type(error).__name__}: {_VALUES.sub('', str(error))[:120]}"


def join_frames(frames: Sequence[bytes | bytearray | memoryview]) -> bytes:
    """Frames as one input."""
    return b"".join(_SIZE.pack(len(frame)) + bytes(frame) for frame in frames)


def split_frames(data: bytes) -> list[bytes]:
    """The frames of an input; a size that says too much means the rest."""
    frames, position = [], 0
    while position + _SIZE.size <= len(data):
        (size,) = _SIZE.unpack_from(data, position)
        position += _SIZE.size
        frames.append(data[position : position + size])
        position += size
    return frames
