"""Metering: increments, from arrival to the ledger.

See meter.py for the way of a call. Guarantees: a counter equals the sum of its ledger entries; an answered
increment is in the ledger exactly once; a hard limit is never passed; the answers of one counter are a
strictly rising sequence without gaps.
"""
