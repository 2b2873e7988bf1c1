"""The command line, `tallygate`: run the service, and call one that runs.

Exit codes: 0 for success, 1 when the answer is no (denied, different, in disagreement), 2 when something is wrong.
Heavy libraries are imported by the commands that need them, so `tallygate --help` is quick.
"""

from __future__ import annotations

from tallygate_server.cli.root import app, main

__all__ = ["app", "main"]
