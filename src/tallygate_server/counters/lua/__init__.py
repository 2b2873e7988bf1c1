"""Lua scripts of the hot path, one verb a file."""
