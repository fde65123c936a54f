"""The control port: what people look at. It asks for a token and obeys the same policies as the data plane."""
