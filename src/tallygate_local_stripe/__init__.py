"""A stateful stand-in for Stripe, served over HTTP, for development and tests. Never for production."""
