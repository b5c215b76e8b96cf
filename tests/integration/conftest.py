"""Running clusters for the tests of a module: starting one takes two seconds, so that a module shares it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.processes import Cluster, cluster

#: Small enough that a test reaches it with little data.
MESSAGE_BYTES_MAX = 64 << 10


@pytest.fixture(scope="module")
def trio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes as they come."""
    with cluster(tmp_path_factory.mktemp("trio")) as running:
        yield running


@pytest.fixture(scope="module")
def solo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One node with a small message limit."""
    environment = {"ZMQBROKER_LIMITS_MESSAGE_BYTES_MAX": str(MESSAGE_BYTES_MAX)}
    with cluster(tmp_path_factory.mktemp("solo"), 1, environment=environment) as running:
        yield running
