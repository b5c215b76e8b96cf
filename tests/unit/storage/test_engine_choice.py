"""Which engine the store gets, and what is said when it is not the native one."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

import pytest

from tests.unit.storage.conftest import OpenEngine
from zmqbroker import _build
from zmqbroker.storage import _store_py, engine_choice

COMPILED = "zmqbroker.storage._store"


def fresh(module: ModuleType, name: str | None = None) -> ModuleType:
    """A second copy of a module, run anew; the first stays what it is for everybody else."""
    assert module.__file__ is not None
    spec = importlib.util.spec_from_file_location(name or f"{module.__name__}_copy", module.__file__)
    assert spec is not None
    assert spec.loader is not None
    copy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(copy)
    return copy


def test_choice_pure_was_asked_for_takes_py_lmdb_without_complaint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_build, "PURE", True)
    chosen = fresh(engine_choice)
    assert chosen.open_engine is _store_py.open_engine
    assert (chosen.compiled, chosen.fallback_reason) == (False, "")


def test_choice_native_module_missing_takes_py_lmdb_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_build, "PURE", False)
    monkeypatch.setitem(sys.modules, COMPILED, None)
    chosen = fresh(engine_choice)
    assert chosen.open_engine is _store_py.open_engine
    assert not chosen.compiled
    assert COMPILED in chosen.fallback_reason


def test_choice_native_module_present_takes_it(monkeypatch: pytest.MonkeyPatch, native: OpenEngine) -> None:
    monkeypatch.setattr(_build, "PURE", False)
    chosen = fresh(engine_choice)
    assert chosen.open_engine is native
    assert (chosen.compiled, chosen.fallback_reason) == (True, "")


@pytest.mark.parametrize(
    ("library", "reason"),
    [(None, "no compiled module"), ("/nowhere/lmdb.so", "not what the dynamic linker"), ("other", "no function mdb09_version")],
)
def test_native_module_without_lmdbs_functions_is_an_import_error(native: OpenEngine, library: str | None, reason: str) -> None:
    """Another release of py-lmdb, one on cffi, or one on the system's library."""
    compiled = sys.modules[native.__module__]
    module = None if library is None else ModuleType("lmdb.cpython")
    if module is not None:
        module.__file__ = compiled.__file__ if library == "other" else library
    with pytest.raises(ImportError, match=reason):
        compiled.find_functions(module)
