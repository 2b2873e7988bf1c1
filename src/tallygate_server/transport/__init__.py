"""The gRPC edge: decode, validate, convert, call, convert, encode. Nothing here decides anything."""
