"""Watching what accounts are entitled to: a snapshot, then every change."""
