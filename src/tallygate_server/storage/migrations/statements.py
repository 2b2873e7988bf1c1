"""Reads the SQL files that migrations run."""

from __future__ import annotations

from importlib.resources import files


def read_statements(name: str) -> list[str]:
    """Return the statements of a file beside the migrations.

    They end with semicolons at line ends, outside of dollar-quoted blocks.
    """
    sql = files("tallygate_server.storage.migrations.versions").joinpath(name).read_text("utf-8")
    statements: list[str] = []
    lines: list[str] = []
    quoted = False
    for line in sql.splitlines():
        if line.lstrip().startswith("--") and not quoted:
            continue
        lines.append(line)
        if line.count("$$") % 2:
            quoted = not quoted
        if line.rstrip().endswith(";") and not quoted:
            statements.append("\n".join(lines))
            lines = []
    return statements
