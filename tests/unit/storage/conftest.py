"""The engines under the store, for tests that both have to pass."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pytest

from zmqbroker.storage import _store_py, lmdb_environment
from zmqbroker.storage.engine import Engine

OpenEngine = Callable[..., Engine]


def native_module() -> Any:
    """The compiled engine; the test is skipped where it was not built or LMDB's functions are not found."""
    try:
        return importlib.import_module("zmqbroker.storage._store")
    except ImportError as error:
        pytest.skip(f"there is no native store here: {error}")


@pytest.fixture(params=["python", "native"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> OpenEngine:
    """Either engine; the store uses it too."""
    chosen: OpenEngine = (_store_py if request.param == "python" else native_module()).open_engine
    monkeypatch.setattr(lmdb_environment, "open_engine", chosen)
    return chosen


@pytest.fixture
def native() -> OpenEngine:
    """The native engine, whatever else there is."""
    opener: OpenEngine = native_module().open_engine
    return opener
