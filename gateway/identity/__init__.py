"""Who is asking: credentials in, a verified `Subject` or a refusal out."""
