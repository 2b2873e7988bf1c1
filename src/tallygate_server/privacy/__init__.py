"""Promises to the people whom data is about: consents, exports, erasures, receipts, keys. See README.md."""
