"""RaftConfig: what it refuses."""

from __future__ import annotations

from typing import Any

import pytest

from zmqbroker.errors import ConfigError
from zmqbroker.raft import RaftConfig


def test_config_defaults_are_accepted() -> None:
    config = RaftConfig(id=2, group=0)
    assert config.pre_vote
    assert config.check_quorum


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"id": 0}, "id is 0"),
        ({"reads_max": 0}, "reads_max is 0"),
        ({"group": -1}, "group is -1"),
        ({"heartbeat_ticks": 0}, "heartbeat_ticks is 0"),
        ({"election_ticks": 1}, "must be above heartbeat_ticks"),
        ({"inflight_messages_max": 0}, "inflight_messages_max is 0"),
        ({"inflight_bytes_max": 10}, "below message_bytes_max"),
        ({"committed_bytes_max": 0}, "committed_bytes_max is 0"),
        ({"uncommitted_bytes_max": 0}, "uncommitted_bytes_max is 0"),
        ({"message_bytes_max": 0}, "message_bytes_max is 0"),
    ],
)
def test_config_with_a_fault_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RaftConfig(**{"id": 1, "group": 0, **changes})
    assert len(caught.value.faults) == 1
    assert words in caught.value.faults[0]


def test_config_with_several_faults_names_all() -> None:
    with pytest.raises(ConfigError) as caught:
        RaftConfig(id=0, group=-1, election_ticks=0)
    assert len(caught.value.faults) == 3
