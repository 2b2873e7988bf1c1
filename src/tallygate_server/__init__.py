"""Tallygate: an exact, durable gRPC entitlement and metering service."""
