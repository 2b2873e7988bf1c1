"""Which release this is."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Final

SOURCE_TREE: Final = "source-tree"


def release_version() -> str:
    """Return the installed package's version, or `source-tree` where the code runs without being installed."""
    try:
        return version("tallygate")
    except PackageNotFoundError:
        return SOURCE_TREE
