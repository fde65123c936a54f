"""What operators see: metrics, logs, traces. Never content, never identities."""
