"""Compression: jobs that put smaller forms in the place of data, and what these forms can still give."""

from __future__ import annotations
