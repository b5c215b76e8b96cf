"""Our Raft core against every recorded scenario of the reference, and the replay itself against broken output.

The scenarios live beside the repository, or where ZMQBROKER_SCENARIOS points to.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.conformance.raft.replay import load, replay
from tests.conformance.raft.script import ScriptError, parse

ROOT = Path(__file__).resolve().parents[3]
SCENARIOS = Path(os.environ.get("ZMQBROKER_SCENARIOS", ROOT.parent / "shared" / "conformance" / "raft"))
FOUND = list(load(SCENARIOS)) if SCENARIOS.is_dir() else []

SMALL = """# One voter leads itself.
log-level info
----
ok

add-nodes 1 voters=(1) index=2
----
INFO 1 switched to configuration voters=(1)
INFO 1 became follower at term 0
INFO newRaft 1 [peers: [1], term: 0, commit: 2, applied: 2, lastindex: 2, lastterm: 1]

campaign 1
----
INFO 1 is starting a new election at term 0
INFO 1 became candidate at term 1
"""


@pytest.mark.skipif(not FOUND, reason=f"the scenarios are not at {SCENARIOS}")
def test_scenarios_are_all_found() -> None:
    assert len(FOUND) >= 328


@pytest.mark.parametrize(("name", "text"), FOUND, ids=[name for name, _ in FOUND])
def test_scenario_is_reproduced_byte_for_byte(name: str, text: str) -> None:
    assert replay(text) == ""


def test_replay_of_matching_script_finds_no_difference() -> None:
    assert replay(SMALL) == ""


def test_replay_names_first_differing_line() -> None:
    difference = replay(SMALL.replace("candidate at term 1", "candidate at term 2"))
    assert difference.startswith("command 3 (line 12, campaign): output line 2 is 'INFO 1 became candidate at term 1'")


def test_replay_sees_missing_and_surplus_lines() -> None:
    assert "expected 'INFO 1 and more'" in replay(SMALL + "INFO 1 and more\n")
    assert "expected None" in replay(SMALL.replace("INFO 1 became candidate at term 1\n", ""))


def test_structural_replay_ignores_log_lines_only() -> None:
    text = SMALL.replace("candidate at term 1", "candidate at term 2")
    assert replay(text, structural=True) == ""
    state = "\nraft-state\n----\n1: StateLeader (Voter) Term:1 Lead:1\n"
    assert "StateCandidate" in replay(text + state, structural=True)


@pytest.mark.parametrize(
    "text",
    [
        "dance 1\n----\nok\n",
        "campaign 7\n----\nok\n",
        "campaign\n----\nok\n",
        "propose x\n----\nok\n",
        "log-level loud\n----\nok\n",
    ],
)
def test_replay_of_impossible_command_fails_and_names_it(text: str) -> None:
    assert "command 1 (line 1" in replay(text)


def test_parse_reads_arguments_options_input_and_output() -> None:
    (command,) = parse("# comment\n\ndo 1 x v=(1, 2) a=b none=()\nin 1\nin 2\n----\nout\n\n")
    assert (command.name, command.line, command.arguments) == ("do", 3, ["1", "x"])
    assert command.options == {"v": ["1", "2"], "a": ["b"], "none": []}
    assert command.input == ["in 1", "in 2"]
    assert command.expected == "out\n"


def test_parse_reads_output_with_empty_lines() -> None:
    commands = list(parse("do\n----\n----\nfirst\n\nlast\n----\n----\n\nnext\n----\nok\n"))
    assert [command.expected for command in commands] == ["first\n\nlast\n", "ok\n"]


@pytest.mark.parametrize("text", ["do\n", "do\n----\n----\nwithout end\n"])
def test_parse_of_cut_script_is_refused(text: str) -> None:
    with pytest.raises(ScriptError):
        list(parse(text))


def adapter(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.conformance.raft", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_adapter_replays_tar_and_counts(tmp_path: Path) -> None:
    path = tmp_path / "scripts.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, text in (("good.txt", SMALL), ("bad.txt", SMALL.replace("term 1\n", "term 9\n"))):
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    done = adapter(str(path))
    lines = done.stdout.splitlines()
    assert done.returncode == 1
    assert lines[0] == "passed scripts.tar.gz:good.txt"
    assert lines[1].startswith("failed scripts.tar.gz:bad.txt: command 3 (line 12, campaign)")
    assert lines[2] == "1 passed, 1 failed"


def test_adapter_replays_directory(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "one.txt").write_text(SMALL)
    done = adapter(str(tmp_path))
    assert (done.returncode, done.stdout) == (0, "passed one.txt\n1 passed, 0 failed\n")


def test_adapter_of_missing_file_is_refused(tmp_path: Path) -> None:
    done = adapter(str(tmp_path / "nothing"))
    assert done.returncode == 2
    assert "nothing" in done.stderr
