"""The data lifecycle: what is kept of records, in which form, for how long, and how it comes back."""
