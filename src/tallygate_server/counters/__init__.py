"""Redis, the hot path: holds, snapshots and revisions. All of it may be lost at any moment."""
