"""Our own data under the rules that we keep for that of others: archived, exported, cleaned up, purged."""
