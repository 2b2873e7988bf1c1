"""Background work: sweeping, partitions, purging."""
