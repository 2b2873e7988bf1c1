"""Webhooks of other services: checked, stored once, answered fast, processed until done."""
