"""What did it cost? Prices, and the tokens that are charged when the backend reports none."""
