"""The one switch between the twins."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

import pytest

from tests.unit.wire.samples import load_compiled
from zmqbroker import _build
from zmqbroker.wire import _codec_py, codec

COMPILED = "zmqbroker.wire._codec"


def fresh(module: ModuleType) -> ModuleType:
    """A second copy of a module, run anew; the first stays what it is for everybody else."""
    assert module.__file__ is not None
    spec = importlib.util.spec_from_file_location(f"{module.__name__}_copy", module.__file__)
    assert spec is not None
    assert spec.loader is not None
    copy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(copy)
    return copy


def test_switch_pure_was_asked_for_takes_python_without_complaint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_build, "PURE", True)
    chosen = fresh(codec)
    assert chosen.read_batch is _codec_py.read_batch
    assert (chosen.compiled, chosen.fallback_reason) == (False, "")


def test_switch_compiled_module_missing_takes_python_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_build, "PURE", False)
    monkeypatch.setitem(sys.modules, COMPILED, None)
    chosen = fresh(codec)
    assert chosen.encode_batch is _codec_py.encode_batch
    assert not chosen.compiled
    assert COMPILED in chosen.fallback_reason


def test_switch_compiled_module_present_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    twin = load_compiled()
    monkeypatch.setattr(_build, "PURE", False)
    chosen = fresh(codec)
    assert chosen.slice_batch is twin.slice_batch
    assert (chosen.compiled, chosen.fallback_reason) == (True, "")


def test_switch_present_but_broken_module_takes_python(monkeypatch: pytest.MonkeyPatch) -> None:
    # A module built from other sources lacks a name.
    monkeypatch.setattr(_build, "PURE", False)
    monkeypatch.setitem(sys.modules, COMPILED, ModuleType(COMPILED))
    chosen = fresh(codec)
    assert chosen.decode_batch is _codec_py.decode_batch
    assert "cannot import name" in chosen.fallback_reason


@pytest.mark.parametrize(("value", "expected"), [(None, False), ("", False), ("0", False), ("1", True)])
def test_build_pure_is_asked_for_by_the_environment(monkeypatch: pytest.MonkeyPatch, value: str | None, expected: bool) -> None:
    if value is None:
        monkeypatch.delenv("ZMQBROKER_PURE", raising=False)
    else:
        monkeypatch.setenv("ZMQBROKER_PURE", value)
    assert expected is fresh(_build).PURE
