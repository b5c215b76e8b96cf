"""`python -m tests.conformance.raft PATH...`: replay scripts and print which pass.

Exit status: 0 all passed, 1 some failed, 2 nothing could be run.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.conformance.raft.replay import load, replay
from tests.conformance.raft.script import ScriptError


def main() -> int:
    """Replay everything that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance.raft", description=__doc__)
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="a script, a directory, or a tar of scripts")
    parser.add_argument("--structural", action="store_true", help="do not compare log lines")
    arguments = parser.parse_args()
    passed = failed = 0
    for path in arguments.paths:
        try:
            for name, text in load(path):
                difference = replay(text, structural=arguments.structural)
                print(f"failed {name}: {difference}" if difference else f"passed {name}")
                passed, failed = passed + (not difference), failed + bool(difference)
        except (OSError, ScriptError) as error:
            print(f"{path}: {error}", file=sys.stderr)
            return 2
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0 if passed else 2


if __name__ == "__main__":
    sys.exit(main())
