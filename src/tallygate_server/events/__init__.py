"""Tells tenants what happened: as a list, as a stream, and as webhooks to endpoints of theirs."""
