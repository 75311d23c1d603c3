"""`python -m rbees`: the same program as the command `rbees`. Daemons are started this way, so no PATH has to be right."""

from __future__ import annotations

import sys

from rbees.cli import main

if __name__ == "__main__":
    sys.exit(main())
