"""In what shape may a request enter and an answer leave: strict JSON, one closed schema an operation, every text named."""
