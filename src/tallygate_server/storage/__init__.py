"""Postgres, the truth: tables, migrations, and one module of SQL per aggregate."""
