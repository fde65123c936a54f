"""To whom: routes, breakers, the retry budget, the HTTP client, and the one step that sends a screened request."""
