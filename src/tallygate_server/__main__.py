"""Run the command line as `python -m tallygate_server`."""

from __future__ import annotations

import sys

from tallygate_server.cli import main

if __name__ == "__main__":
    sys.exit(main())
