"""`zmqbroker serve`: where its configuration comes from, and what happens when it has faults."""

from __future__ import annotations

from pathlib import Path

import pytest

import zmqbroker.server
from zmqbroker.cli.app import run
from zmqbroker.cli.exits import Exit
from zmqbroker.config import NodeConfig


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[tuple[NodeConfig, str]]:
    """The configurations that a node was run with; running it ends with status 0."""
    runs: list[tuple[NodeConfig, str]] = []

    def record(config: NodeConfig, owner: str) -> int:
        runs.append((config, owner))
        return 0

    monkeypatch.setattr(zmqbroker.server, "run", record)
    return runs


def test_serve_nothing_configured_runs_one_local_node(served: list[tuple[NodeConfig, str]]) -> None:
    assert run(["serve"]) == Exit.DONE
    assert served == [(NodeConfig(), "serve")]


def test_serve_flags_environment_and_file_are_merged(
    served: list[tuple[NodeConfig, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "zmqbroker.toml").write_text('[node]\nname = "file"\ndata_dir = "file"\n[log]\nlevel = "error"\n')
    (tmp_path / "level").write_text("warning\n")
    monkeypatch.setenv("ZMQBROKER_CONFIG", str(tmp_path / "zmqbroker.toml"))
    monkeypatch.setenv("ZMQBROKER_NODE_DATA_DIR", "environment")
    monkeypatch.setenv("ZMQBROKER_LOG_LEVEL_FILE", str(tmp_path / "level"))
    arguments = ["serve", "--name", "a", "--client", "tcp://127.0.0.1:1", "--client", "ipc:///run/a", "--peer", "127.0.0.1:2"]
    arguments += ["--peers", "a=127.0.0.1:2,b=127.0.0.1:3", "--volume", "persistent", "--set", "raft.tick_ms=50"]
    assert run(arguments) == Exit.DONE
    config = served[0][0]
    assert (config.node.name, config.node.data_dir, config.log.level) == ("a", "environment", "warning")
    assert config.listen.client == ("tcp://127.0.0.1:1", "ipc:///run/a")
    assert (config.listen.peer, config.size, config.cluster.volume, config.raft.tick_ms) == ("127.0.0.1:2", 2, "persistent", 50)


def test_serve_faults_are_all_printed_and_nothing_runs(
    served: list[tuple[NodeConfig, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["serve", "--volume", "forever", "--set", "raft.tick_ms=0", "--set", "no.key=1"]) == Exit.USAGE
    assert capsys.readouterr().err.splitlines() == [
        "zmqbroker: flag no.key: there is no such setting",
        "zmqbroker: flag cluster.volume: 'forever' is not one of ephemeral, persistent",
        "zmqbroker: flag raft.tick_ms: 0 is not between 1 and 1000",
    ]
    assert served == []


def test_serve_setting_of_wrong_form_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["serve", "--set", "raft.tick_ms"]) == Exit.USAGE
    assert "'raft.tick_ms' is not TABLE.KEY=VALUE" in capsys.readouterr().err


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_serve_configuration_that_cannot_be_read_is_one_line(
    content: bytes | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "zmqbroker.toml"
    if content is not None:
        path.write_bytes(content)
    assert run(["serve", "--config", str(path)]) == Exit.USAGE
    error = capsys.readouterr().err
    assert error.startswith(f"zmqbroker: the configuration file {path} cannot be read: ")
    assert error.count("\n") == 1


def test_serve_status_of_the_node_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zmqbroker.server, "run", lambda config, owner: 6)
    assert run(["serve"]) == Exit.DAMAGED
