"""How much: requests, tokens, concurrency and quota, decided together and given back together."""
