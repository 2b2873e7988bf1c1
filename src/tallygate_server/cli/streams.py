"""Answers that come as a stream: a progress bar for people, and what the stream said for the command."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tallygate_server.cli.output import console

Advance = Callable[[int, int], None]
"""Takes how many are done, and of how many."""


@contextmanager
def progress_bar(what: str, *, quiet: bool) -> Iterator[Advance]:
    """Show how far a stream is; nothing where nobody watches."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    with Progress(
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console(err=True),
        disable=quiet or not sys.stderr.isatty(),
        transient=True,
    ) as progress:
        task = progress.add_task(what, total=None)

        def advance(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        yield advance
