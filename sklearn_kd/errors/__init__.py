"""Messages that name the argument and suggest a mend."""
