"""Small damage to valid input, drawn from a seeded generator: the same seed makes the same inputs."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from tests.fuzz.target import INPUT_SIZE_MAX

__all__ = ["mutate"]

#: Numbers at the edges of their fields.
_EDGES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1)
#: Heads of msgpack values: nil, truth, floats, numbers, texts, binaries, arrays, maps and extensions that claim much or little.
_HEADS = (
    *(b"\xc0", b"\xc1", b"\xc2", b"\xc3", b"\xcb\x7f\xf8\0\0\0\0\0\0", b"\xcf" + b"\xff" * 8, b"\xd3\x80" + bytes(7)),
    *(
        b"\xd9\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xc4\x00",
        b"\xc6\xff\xff\xff\xff",
        b"\x90",
        b"\xdc\xff\xff",
        b"\xdd\xff\xff\xff\xff",
    ),
    *(b"\x80", b"\xde\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xd4\x01\x00", b"\xd6\xff\0\0\0\0", b"\xc7\x0c\xff" + bytes(12)),
    *(b"\xa0", b"\xa2\xc3\x28", b"\xa3\xed\xa0\x80", b"\x81\x90\xc0", b"\x91" * 40),
)


def mutate(random: Random, samples: Sequence[bytes]) -> bytes:
    """One of the samples with a few changes."""
    data = bytearray(random.choice(samples))
    for _ in range(random.choice((1, 1, 1, 2, 2, 3, 5))):
        _change(random, data, samples)
    return bytes(data[:INPUT_SIZE_MAX])


def _change(random: Random, data: bytearray, samples: Sequence[bytes]) -> None:
    size = len(data)
    at = random.randint(0, size)
    match random.randrange(10):
        case 0 if at < size:
            data[at] ^= 1 << random.randrange(8)
        case 1 if at < size:
            data[at] = random.randrange(256)
        case 2 | 3:
            width = random.choice((1, 2, 4, 8))
            number = random.choice(_EDGES) if random.random() < 0.7 else random.getrandbits(8 * width)
            order = "little" if random.random() < 0.5 else "big"
            data[at : at + width] = (number & (1 << 8 * width) - 1).to_bytes(width, order)  # type: ignore[arg-type]
        case 4:
            del data[at : at + _span(random)]
        case 5:
            data[at:at] = random.randbytes(_span(random))
        case 6:
            data[at:at] = data[at : at + _span(random)] * random.choice((1, 1, 2, 30, 5000))
        case 7:
            other = random.choice(samples)
            start = random.randint(0, len(other))
            data[at : at + _span(random) * random.randrange(2)] = other[start : start + _span(random)]
        case 8:
            head = random.choice(_HEADS)
            data[at : at + random.choice((0, 1, len(head)))] = head
        case _:
            del data[at:]


def _span(random: Random) -> int:
    """A few bytes as a rule, many now and then."""
    return random.choice((1, 1, 2, 4, 8, 16, random.randint(1, 300)))
