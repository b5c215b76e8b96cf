"""The hash whose sum over many records is their digest: docs/STORAGE.md §8.

It finds records that are missing, or are there in an older version; each value's own checksum finds what was changed. A sum
does not depend on an order, and a change costs one subtraction and one addition. It is stored, so it never changes.

The hash is the crc32c and the crc32 (as zlib's) of key and value, 32 bits each, side by side, then mixed. Two seeds of one crc
would not do: crc is linear, so for one size of record the second is the first with a constant added (xor). The two polynomials
have no factor in common, so together they tell apart what a crc of 64 bits does, and both are at hand in C and in Python. The
mixing is a bijection (the last step of MurmurHash3) that takes the linearity out: without it, a sum of crcs of keys that differ
in a counter alone would have structure, and what is lost could cancel out. It is no defence against anybody who means it.
"""

from __future__ import annotations

import zlib

from zmqbroker.checksum import crc32c

__all__ = ["DIGEST_MASK", "record_hash"]

#: Digests are sums modulo 2**64.
DIGEST_MASK = (1 << 64) - 1


def record_hash(key: bytes, value: bytes) -> int:
    """The hash of a record, 0 to 2**64 - 1."""
    mixed = crc32c(value, crc32c(key)) << 32 | zlib.crc32(value, zlib.crc32(key))
    mixed = (mixed ^ mixed >> 33) * 0xFF51AFD7ED558CCD & DIGEST_MASK
    mixed = (mixed ^ mixed >> 33) * 0xC4CEB9FE1A85EC53 & DIGEST_MASK
    return mixed ^ mixed >> 33
