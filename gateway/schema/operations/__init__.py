"""One file an operation: its closed schema, what it needs grants for, and where text lives in it, in both directions."""
