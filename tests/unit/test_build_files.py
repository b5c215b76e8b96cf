"""Makefile, .ci/run and .ci/prerequisites: what they say when something is missing; documents name real targets."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CI = ROOT / ".ci"


def executable(path: Path, text: str) -> Path:
    """Write a program."""
    path.write_text(text)
    path.chmod(0o755)
    return path


def prerequisites(python: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the check for an interpreter."""
    return subprocess.run(
        [CI / "prerequisites", python],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def python_that_fails_on(place: Path, pattern: str) -> str:
    """An interpreter whose programs fail when they mention `pattern`."""
    script = f'#!/bin/sh\ncase "$2" in *{pattern}*) exit 1;; esac\nexec "{sys.executable}" "$@"\n'
    return str(executable(place / "python", script))


@pytest.mark.parametrize("interpreter", ["", "no-such-python"])
def test_prerequisites_no_python_is_one_line_with_the_command(interpreter: str) -> None:
    done = prerequisites(interpreter)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "sudo apt-get install python3.11" in done.stderr


def test_prerequisites_old_python_is_refused(tmp_path: Path) -> None:
    assert prerequisites(python_that_fails_on(tmp_path, "version_info")).returncode == 1


def test_prerequisites_no_venv_module_is_one_line_with_the_command(tmp_path: Path) -> None:
    done = prerequisites(python_that_fails_on(tmp_path, "ensurepip"))
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert f"sudo apt-get install python3.{sys.version_info.minor}-venv" in done.stderr


def test_prerequisites_no_headers_or_compiler_goes_on_and_says_what_that_means(tmp_path: Path) -> None:
    done = prerequisites(python_that_fails_on(tmp_path, "Python.h"), CC="no-such-compiler")
    assert done.returncode == 0
    assert done.stderr.count("\n") == 1
    assert "pure-Python build" in done.stderr
    assert f"sudo apt-get install gcc libc6-dev python3.{sys.version_info.minor}-dev" in done.stderr


def test_prerequisites_everything_there_is_silent(tmp_path: Path) -> None:
    always = executable(tmp_path / "cc", "#!/bin/sh\n")
    script = f'#!/bin/sh\ncase "$2" in *Python.h*) exit 0;; esac\nexec "{sys.executable}" "$@"\n'
    done = prerequisites(str(executable(tmp_path / "python", script)), CC=str(always))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def run_ci(place: Path, make: str) -> subprocess.CompletedProcess[str]:
    """Run .ci/run with another `make`."""
    executable(place / "make", make)
    return subprocess.run(
        [CI / "run"],
        env={**os.environ, "PATH": f"{place}:{os.environ['PATH']}"},
        input="nobody may read this",
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_ci_run_ends_with_the_sum_of_pytests_closing_lines(tmp_path: Path) -> None:
    lines = ["...  [100%]", "812 passed, 2 skipped in 33.10s", "5 passed tests in a sentence", "40 passed in 1.90s (0:00:01)"]
    done = run_ci(tmp_path, '#!/bin/sh\n[ "$2" = test ] || exit 9\ncat\n' + "".join(f"echo '{line}'\n" for line in lines))
    assert done.returncode == 0
    assert "nobody may read this" not in done.stdout
    assert done.stdout.splitlines()[-3:] == [lines[1], lines[3], "852 passed, 2 skipped in 35.00s"]


def test_ci_run_failure_is_its_own_failure(tmp_path: Path) -> None:
    done = run_ci(tmp_path, "#!/bin/sh\necho '1 failed, 3 passed in 1.00s'\nexit 2\n")
    assert done.returncode != 0


def makefile_targets() -> set[str]:
    """Targets that a person may call."""
    return set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_makefile_documents_name_targets_that_exist() -> None:
    for document in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")):
        named = set(re.findall(r"(?:^|`|\s)make ([a-z][a-z-]+)(?=[`\s,;.)]|$)", document.read_text(), re.MULTILINE))
        code = {name for name in named if f"`make {name}" in document.read_text() or f"\nmake {name}" in document.read_text()}
        assert code <= makefile_targets(), document


def test_makefile_help_lists_every_target_once() -> None:
    done = subprocess.run(
        ["make", "--no-print-directory", "-C", str(ROOT)], capture_output=True, text=True, timeout=30, check=True
    )
    listed = [line.split()[1] for line in done.stdout.splitlines()]
    assert set(listed) == makefile_targets()
    assert len(listed) == len(set(listed))


def recipe_of(target: str) -> list[str]:
    """The commands of a target."""
    lines = (ROOT / "Makefile").read_text().partition(f"\n{target}:")[2].partition("\n\n")[0].splitlines()
    return [line for line in lines if line.startswith("\t")]


def test_makefile_root_is_asked_for_in_one_target_only() -> None:
    recipes = [line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith("\t")]
    asking = [line for line in recipes if "sudo" in line or "$(AS_ROOT)" in line]
    assert asking == [line for line in recipe_of("deps-full") if "$(AS_ROOT)" in line]
    assert asking


def test_makefile_installs_exactly_what_the_lock_file_of_the_node_example_names() -> None:
    assert any("npm ci" in line and "docs/examples/node" in line for line in recipe_of("deps-full"))
    place = ROOT / "docs" / "examples" / "node"
    wanted = json.loads((place / "package.json").read_text())["dependencies"]
    locked = json.loads((place / "package-lock.json").read_text())["packages"]
    assert locked[""]["dependencies"] == wanted
    assert {name: locked[f"node_modules/{name}"]["version"] for name in wanted} == wanted
    assert all("integrity" in package and "resolved" not in package for name, package in locked.items() if name)
