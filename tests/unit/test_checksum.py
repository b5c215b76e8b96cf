"""The checksum's one door: right values from both places, and the switch between them."""

from __future__ import annotations

import sys

import pytest

from zmqbroker.checksum import crc32c, load_crc32c


@pytest.mark.parametrize("pure", [False, True])
def test_crc32c_known_values_are_right(pure: bool) -> None:
    """Vectors of RFC 3720, appendix B.4."""
    checksum = load_crc32c(pure)
    assert checksum(b"123456789") == 0xE3069283
    assert checksum(bytes(32)) == 0x8A9136AA
    assert checksum(b"\xff" * 32) == 0x62A8AB43
    assert checksum(memoryview(bytes(range(32)))) == 0x46DD794E


@pytest.mark.parametrize("pure", [False, True])
def test_crc32c_seed_continues(pure: bool) -> None:
    checksum = load_crc32c(pure)
    assert checksum(b"456789", checksum(b"123")) == checksum(b"123456789")


def test_crc32c_without_the_compiled_codec_is_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    package = __import__("crc32c").crc32c
    assert load_crc32c(True) is package
    monkeypatch.setitem(sys.modules, "zmqbroker.wire._codec", None)
    assert load_crc32c(False) is package
    assert crc32c(b"123456789") == 0xE3069283
