"""Migrations of the first and later releases."""
