"""The door of the command line: from the process's arguments to its exit status.

The one place that catches everything. A foreseeable failure is one line on standard error (`app.run`); what arrives here is a
bug, and gets its traceback and status 70.
"""

from __future__ import annotations

import sys
import traceback

from zmqbroker.cli.app import run
from zmqbroker.cli.exits import Exit

__all__ = ["main"]


def main() -> int:
    """Run the command in sys.argv; returns the exit status."""
    try:
        return run(sys.argv[1:])
    except Exception:
        traceback.print_exc()
        print("zmqbroker: this is a bug in zmqbroker; please report the lines above", file=sys.stderr)
        return Exit.INTERNAL


if __name__ == "__main__":
    sys.exit(main())
