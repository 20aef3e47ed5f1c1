"""Error messages that name the argument and suggest a remedy."""
