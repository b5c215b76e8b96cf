"""Sizes, durations and instants as people read them."""

from __future__ import annotations

import time

import pytest

from zmqbroker.cli.readable import duration_text, exact_size_text, instant, instant_text, plain_text, size_text


@pytest.mark.parametrize(
    ("size", "rounded", "exact"),
    [
        (0, "0 B", "0 B"),
        (1_023, "1023 B", "1,023 B"),
        (1_024, "1.0 KiB", "1 KiB"),
        (1_536, "1.5 KiB", "1,536 B"),
        ((1 << 20) - 1, "1023.9 KiB", "1,048,575 B"),
        (3 << 20, "3.0 MiB", "3 MiB"),
        (5 << 30, "5.0 GiB", "5 GiB"),
        (2 << 50, "2048.0 TiB", "2048 TiB"),
    ],
)
def test_size_rounded_for_what_is_measured_and_exact_for_what_is_set(size: int, rounded: str, exact: str) -> None:
    assert (size_text(size), exact_size_text(size)) == (rounded, exact)


@pytest.mark.parametrize(
    ("duration_ms", "text"),
    [(0, "0 ms"), (999, "999 ms"), (1_000, "1 s"), (90_500, "1 min 30 s 500 ms"), (2 * 86_400_000 + 3_600_000, "2 d 1 h")],
)
def test_duration_loses_nothing(duration_ms: int, text: str) -> None:
    assert duration_text(duration_ms) == text


def test_instant_is_utc() -> None:
    assert instant_text(1_700_000_000_999_999_999) == "2023-11-14 22:13:20"


@pytest.mark.parametrize(("text", "shown"), [("zwölf", "zwölf"), ("\x1b[31m", r"'\x1b[31m'"), ("a\nb", r"'a\nb'")])
def test_plain_text_that_would_change_the_terminal_is_quoted(text: str, shown: str) -> None:
    assert plain_text(text) == shown


def test_instant_without_a_zone_is_utc_wherever_one_is(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("TZ", "EST5EDT")
        time.tzset()
        found = instant("2023-11-14T22:13:20")
    time.tzset()
    assert found == 1_700_000_000_000_000_000
