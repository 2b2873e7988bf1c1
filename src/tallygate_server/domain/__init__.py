"""Pure rules of entitlement and metering: no await, no I/O, no wire types."""
