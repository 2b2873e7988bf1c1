"""DataLifecycleService, by topic: each module has its RPCs and their conversions beside it."""
