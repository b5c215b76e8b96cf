"""What a replica's state was at one index, as checksums: so that replicas can be compared long after they moved on.

An audit is taken while its entry is applied, on every node at the same index. It keeps a checksum per key, sorted into buckets,
so that two nodes find the keys that differ without sending all of them. It is no part of the state. One is kept at a time; it
costs as much memory as the state has keys, about 100 bytes each. Source: docs/PROTOCOL.md §3, AUDIT.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256

__all__ = ["BUCKETS", "Audit", "digest_of"]

#: Keys are spread over so many buckets by their crc32.
BUCKETS = 256


def digest_of(index: int, items: Iterable[tuple[bytes, bytes]]) -> bytes:
    """SHA-256 of an index and of keys and values in their order, each with its length."""
    digest = sha256(index.to_bytes(8, "big"))
    for part in (part for item in items for part in item):
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()


@dataclass(slots=True, frozen=True)
class Audit:
    """The state at `index`."""

    index: int
    digest: bytes  # as `digest_of` makes it
    buckets: tuple[dict[bytes, int], ...]  # key -> crc32 of its value, keys ascending

    @classmethod
    def of(cls, index: int, items: list[tuple[bytes, bytes]]) -> Audit:
        """The audit of a state's canonical form."""
        buckets: tuple[dict[bytes, int], ...] = tuple({} for _ in range(BUCKETS))
        for key, value in items:
            buckets[zlib.crc32(key) % BUCKETS][key] = zlib.crc32(value)
        return cls(index, digest_of(index, items), buckets)

    def bucket_checksums(self) -> bytes:
        """A crc32 of each bucket, u32 big-endian."""
        return b"".join(_checksum(bucket).to_bytes(4, "big") for bucket in self.buckets)


def _checksum(bucket: dict[bytes, int]) -> int:
    checksum = 0
    for key, value in bucket.items():
        checksum = zlib.crc32(key + value.to_bytes(4, "big"), checksum)
    return checksum
