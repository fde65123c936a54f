"""What happened: the tamper-evident log, its proofs, and the readers that need no running gateway."""
