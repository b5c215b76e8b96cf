"""Damage aimed at LMDB's tree: one bit in what leads to the records of an environment, none in the records' values.

A page begins with its number (u64), two bytes, flags (u16), and the bounds of its free space (u16 each); then comes the offset
of each node (u16). A node begins with two u16 of the value's size (in a branch: of the page below), flags, and the size of the
key, u16 each; then comes the key. Source: LMDB 0.9, mdb.c.
"""

from __future__ import annotations

import random
import struct
from pathlib import Path

__all__ = ["aimed_bit", "flip"]

PAGE, HEADER, NODE = 4096, 16, 8
_BRANCH, _LEAF = 1, 2


def aimed_bit(chance: random.Random, data: bytes) -> tuple[int, int]:
    """Offset and bit of something that LMDB reads to find a record, in a random page of a tree, of this version or an older."""
    while True:
        start = chance.randrange(2, len(data) // PAGE) * PAGE
        flags, lower = struct.unpack_from("<HH", data, start + 10)
        if not flags & (_BRANCH | _LEAF) or not HEADER < lower <= PAGE:
            continue
        slot = start + HEADER + 2 * chance.randrange((lower - HEADER) // 2)
        node = start + struct.unpack_from("<H", data, slot)[0]
        key_size = struct.unpack_from("<H", data, node + 6)[0]
        place, size = chance.choice([(start, HEADER), (slot, 2), (node, NODE), (node + NODE, key_size)])
        if size and place + size <= len(data):
            return place + chance.randrange(size), chance.randrange(8)


def flip(path: Path, data: bytes, offset: int, bit: int) -> None:
    """Write `data` with that bit flipped."""
    path.write_bytes(data[:offset] + bytes([data[offset] ^ 1 << bit]) + data[offset + 1 :])
