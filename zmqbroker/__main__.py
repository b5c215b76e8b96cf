"""`python -m zmqbroker`: the same as the command `zmqbroker`."""

from __future__ import annotations

import sys

from zmqbroker.cli import main

if __name__ == "__main__":
    sys.exit(main())
