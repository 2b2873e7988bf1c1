"""The benchmark: real servers, real stores, `h2load` in front, and every number next to that of an empty call.

What the numbers are good for: the ratios. Absolute rates belong to the machine, and client, server, Postgres and
Valkey share it. Therefore all kinds of calls are measured in turns, in slices of about a second, forwards and then
backwards (ABBA), so that whatever drifts meets all of them alike; a ratio is the median of the ratios of each turn.

h2load counts any HTTP 200 as a success, and a gRPC error is one. Therefore a real client looks at the status before
and after each slice, the server's own count of OK answers must equal h2load's, and so must the ledger.
"""
