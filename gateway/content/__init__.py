"""Is it fit to send, is it fit to return? Inspection of texts in both directions, whole and in streams."""
