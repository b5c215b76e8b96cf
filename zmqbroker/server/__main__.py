"""`python -m zmqbroker.server`: one node, configured by its environment; ends with an exit status of docs/OPERATIONS.md.

`serve` and `dev` both end up here. Every foreseeable failure is one line on standard error.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from zmqbroker import config as configuration
from zmqbroker.errors import ConfigError
from zmqbroker.server.application import EXIT_USAGE, run


def main() -> int:
    """Read the environment (and the file that ZMQBROKER_CONFIG names), then run the node."""
    try:
        path = os.environ.get("ZMQBROKER_CONFIG")
        text = Path(path).read_text(encoding="utf-8") if path else None
        config = configuration.load(text, os.environ, {})
    except ConfigError as error:
        for fault in error.faults:
            print(f"configuration: {fault}", file=sys.stderr)
        return EXIT_USAGE
    except (OSError, UnicodeDecodeError) as error:
        print(f"configuration: {error}", file=sys.stderr)
        return EXIT_USAGE
    return run(config, owner=os.environ.get("ZMQBROKER_OWNER", "serve"))


if __name__ == "__main__":
    sys.exit(main())
