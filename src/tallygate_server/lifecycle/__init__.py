"""The lifecycle of data: how it is coded, which tier it lies in, how long it is kept, and who may use it."""
